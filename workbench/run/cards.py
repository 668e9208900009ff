"""The README of what a run ships: an adapter, or a merged checkpoint."""

from collections.abc import Mapping
from typing import Any

from workbench.console import markdown
from workbench.evaluation import Prediction
from workbench.export.card import Measured, model_card
from workbench.export.loading import adapter_loading
from workbench.methods import Method
from workbench.models import DEQUANTIZED, ORIGINAL
from workbench.models.head import HEAD_NAMES
from workbench.results import Score
from workbench.run.prepare import Job
from workbench.run.resources import versions
from workbench.sources import base_sha256, public_name

BASES = {
    ORIGINAL: "its original weights",
    DEQUANTIZED: "the weights that training saw, dequantized",
}
# Of all libraries those that decide what a file means.
MADE_WITH = ("workbench", "torch", "transformers", "peft")
MERGED_LOADING = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("merged")
tokenizer = AutoTokenizer.from_pretrained("merged")
chat = [{{"role": "user", "content": "..."}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens={max_new_tokens})"""
CLASSIFIER_LOADING = """from transformers import AutoTokenizer, pipeline

tokenizer = AutoTokenizer.from_pretrained("merged")
classify = pipeline("text-classification", model="merged", tokenizer=tokenizer, top_k=None)
chat = [{"role": "user", "content": "..."}]
text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
classify(text, add_special_tokens=False)"""


def card(
    job: Job,
    method: Method,
    seed: int,
    scores: Mapping[str, Score],
    *,
    merged: bool,
    notes: Mapping[str, str] | None = None,
) -> str:
    """The README of a merged checkpoint, or of an adapter."""
    return model_card(
        title=f"{job.recipe.name} by {job.name_of(method)}",
        checkpoint=public_name(job.recipe.checkpoint),
        licence=job.checkpoint.licence,
        method=method.name,
        summary=method.summary,
        recipe=job.recipe.name,
        seed=seed,
        bits=job.precision(method).trained_bits,
        examples=len(job.pairs["train"]),
        scores=[(name, f"{s.value:.2f} ({s.low:.2f} to {s.high:.2f})") for name, s in scores.items()],
        loading=_loading(job) if merged else _adapter_loading(job, method),
        notes={
            "Base, configuration, weights and tokenizer": f"sha256 `{base_sha256(job.checkpoint.path)}`",
            **_class_notes(job),
            **(notes or {}),
            "Made with": _made_with(),
        },
        measured=measured(job, scores),
    )


def measured(job: Job, scores: Mapping[str, Score]) -> list[Measured]:
    """The scores of the splits, as the hub knows them."""
    metrics = {metric.name: metric for metric in job.metrics}
    found = []
    for label, score in scores.items():
        name, _, split = label.removesuffix("]").partition("[")
        if split in job.evaluated and (metric := metrics.get(name)):
            asked = (example for example, _ in job.evaluated[split])
            chosen = next((e.choices for e in asked if metric.applies(Prediction.of_reference(e, split))), ())
            task = "text-classification" if chosen else "text-generation"
            found.append(
                Measured(task=task, data=job.recipe.name, split=split, metric=name, title=metric.title, score=score)
            )
    return found


def _loading(job: Job) -> str:
    """Python that runs a merged checkpoint."""
    if job.head.labels is not None:
        return CLASSIFIER_LOADING
    return MERGED_LOADING.format(max_new_tokens=job.recipe.max_new_tokens)


def _class_notes(job: Job) -> dict[str, str]:
    """What a user of a head of classes should know."""
    labels = job.head.labels
    if labels is None:
        return {}
    note = ", ".join(map(markdown, labels.names))
    if len(labels.tasks) > 1:
        note += ". Only those of one task are to be compared: the head was trained on the classes of each alone"
    return {"Classes": note}


def _made_with() -> str:
    return ", ".join(f"{name} {version}" for name, version in versions().items() if name in MADE_WITH)


def threshold_note(choosing: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Above which probability a label is taken, where a text may have several.

    Args:
        choosing: by task, see `RunRecord`.
    """
    found = [
        f"{markdown(name)} {value:.3f}"
        for how in choosing.values()
        for name, value in how.get("thresholds", {}).items()
    ]
    if not found:
        return {}
    return {"Thresholds": f"a label is taken where its probability is above: {', '.join(found)}"}


def _adapter_loading(job: Job, method: Method) -> str:
    """Python that loads the adapter on the base that its scores are of."""
    precision, arguments, whole = job.precision(method), "", ""
    if job.head.labels is not None:
        pad_id = job.renderer.tokenizer.pad_token_id
        arguments = f", num_labels={len(job.head.labels.names)}, pad_token_id={pad_id}"
        whole = f", llm_int8_skip_modules={list(HEAD_NAMES)}"
    return adapter_loading(
        "adapter",
        str(precision.loading_dtype).removeprefix("torch."),
        precision.scored_bits,
        kind="AutoModelForCausalLM" if job.head.labels is None else "AutoModelForSequenceClassification",
        loads_with=method.loads_with,
        arguments=arguments,
        whole=whole,
    )


def prompt_note(count: int) -> str:
    """How the trained entries of the vocabulary come before a text, and what may not say them."""
    return (
        f"the trained vectors are the last {count} entries of the vocabulary, and the chat template puts them in "
        "front; raw text needs them in front, too. They may not be written: `generation_config.json` and a GGUF say so "
        "(`suppress_tokens`), which transformers and llama.cpp heed. Other runtimes may write them: do not use it there"
    )
