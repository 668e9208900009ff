"""One method with one seed: attach, train, save, evaluate, ship, prove."""

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from workbench import files
from workbench.evaluation import Answer, Score, answer_all, generation_config, score_all
from workbench.export import save_adapter, ship_merged
from workbench.export.card import model_card
from workbench.export.merge import folder_bytes, proof_sequences, sequence_logits
from workbench.job.prepare import Job
from workbench.job.resources import peak_memory
from workbench.methods import Method
from workbench.models import attach, bfloat16_is_fast, load_model, size
from workbench.training import CHECKED, Trained, mean_completion_loss, train

logger = logging.getLogger(__name__)

# Held-out prompts on which an export must give the same text.
PROOF_PROMPTS = 100
# So far the validation loss of what is shipped may be from that of what was trained before the user is warned: a
# share of it, and a difference in nats that roundings make.
LOSS_TOLERANCE = 0.05
SMALL_LOSS = 0.01

ADAPTER_LOADING = """{before}from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("PATH OF THE BASE")
tokenizer = AutoTokenizer.from_pretrained("PATH OF THE BASE")
model = PeftModel.from_pretrained(base, "adapter")"""
MERGED_LOADING = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("merged")
tokenizer = AutoTokenizer.from_pretrained("merged")"""


def carry_method(job: Job, method: Method, seed: int, folder: Path) -> dict[str, Any]:
    """Carry one method through, into `folder`, and return its record for `results.json`.

    Raises:
        MethodError: the method could not be carried to its end.
        OSError: files could not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The optimizer needs float32 for weights that it changes: a frozen base can be coarser, a trained one not.
    bits = 32 if method.trains_base else job.bits
    record: dict[str, Any] = {"method": method.name, "seed": seed, "bits": bits, "status": "done", "error": None}
    trained = None
    if method.trains:
        with peak_memory() as training_memory:
            trained = _train(job, method, seed, folder, record)
    with peak_memory() as memory:
        model = _for_evaluation(job, method, folder, trained)
        if trained:
            record.update(_saved_as_trained(job, method, model, trained))
        began = time.perf_counter()
        answers = answer_all(model, job.renderer, job.evaluated, job.recipe.max_new_tokens, f"{method.name}: answers")
        scores = score_all(job.metrics, answers)
        record["evaluation_seconds"] = time.perf_counter() - began
    record["evaluation_peak_memory_bytes"] = memory.peak_bytes
    record["peak_memory_bytes"] = training_memory.peak_bytes if method.trains else memory.peak_bytes
    if trained is None:
        record.update(trainable_parameters=0, total_parameters=size(model).total, train_seconds=0.0)
        record.update(train_tokens_per_second=None, learning_rate=None, adapter_bytes=0)
    record["metrics"] = {name: asdict(score) for name, score in scores.items()}
    record["signatures"] = {metric.name: metric.signature(answers) for metric in job.metrics}
    files.write_json_lines(folder / "predictions.jsonl", map(_prediction, answers))
    record["export"] = _export(job, method, seed, folder, model, trained, answers, scores)
    return record


def clean_up(folder: Path, keep_weights: bool) -> None:
    """Remove what served an interruption that did not come; TensorBoard's logs stay.

    Args:
        keep_weights: leave `trained/`, the weights of `full`, since no merged checkpoint holds them.
    """
    leftovers = list(folder.glob("training/checkpoint-*"))
    if not keep_weights:
        leftovers.append(folder / "trained")
    for leftover in leftovers:
        shutil.rmtree(leftover, ignore_errors=True)
    for name in ("best.safetensors", "finished.json"):
        (folder / "training" / name).unlink(missing_ok=True)


def _train(job: Job, method: Method, seed: int, folder: Path, record: dict[str, Any]) -> Trained:
    base = load_model(job.checkpoint.path, record["bits"], training=True)
    model = attach(base, method, job.settings(method), job.typical_ids, seed)
    counted = size(model)
    rate = job.learning_rate(method)
    trained = train(
        model,
        job.renderer.tokenizer,
        job.rendered("train"),
        job.rendered("validation"),
        job.recipe.training,
        rate,
        autocast=job.bits < 32 and bfloat16_is_fast(),
        folder=folder / "training",
        seed=seed,
        title=method.name,
    )
    record.update(trainable_parameters=counted.trainable, total_parameters=counted.total)
    record.update(train_seconds=trained.seconds, train_tokens_per_second=trained.tokens_per_second)
    record.update(learning_rate=rate, steps=trained.steps, validation_loss=trained.validation_loss)
    record["curve"] = list(trained.curve)
    if method.trains_base:
        with files.whole_folder(folder / "trained") as aside:
            model.save_pretrained(aside, safe_serialization=True)  # type: ignore[operator]
        record["adapter_bytes"] = folder_bytes(folder / "trained")
    else:
        card = _card(job, method, seed, {}, plain=False)
        tokenizer = job.renderer.tokenizer
        record["adapter_bytes"] = save_adapter(model, tokenizer, folder / "adapter", job.recipe.checkpoint, card)
    return trained


def _shipped_bits(job: Job, method: Method) -> int:
    """Bits at which the weights are that a user of the result will run.

    What merges is merged into the original weights, and a base that was bfloat16 only to train fast is
    evaluated in float32, in which batches don't change answers. What stays an adapter on a quantized base is
    evaluated on it.
    """
    return job.bits if job.bits < 16 and not method.merges else 32


def _for_evaluation(job: Job, method: Method, folder: Path, trained: Trained | None) -> nn.Module:
    """The trained model as it was saved, on the base its users will run."""
    if method.trains_base:
        return load_model(folder / "trained", 32)
    base = load_model(job.checkpoint.path, _shipped_bits(job, method))
    if trained is None:
        return base
    from peft import PeftModel

    return PeftModel.from_pretrained(base, folder / "adapter").eval()


def _export(
    job: Job,
    method: Method,
    seed: int,
    folder: Path,
    model: nn.Module,
    trained: Trained | None,
    answers: Sequence[Answer],
    scores: Mapping[str, Score],
) -> dict[str, Any]:
    """Ship what can be shipped; `model` may be changed by it."""
    record: dict[str, Any] = {
        "merged": False,
        "reason": method.no_plain_checkpoint,
        "max_abs_logit_difference": None,
        "greedy_agreement": None,
    }
    if trained is None:
        return record
    if not method.merges:
        files.write_text(folder / "adapter" / "README.md", _card(job, method, seed, scores, plain=False))
        return record
    notes = {}
    if job.bits < 32 and not method.trains_base:
        record["base"] = f"trained on the base at {job.bits} bits, merged into its original weights in float32"
        notes["Base of the merge"] = f"{record['base']}. All scores are of what is shipped."
    rendered = [item for split in job.evaluated for item in job.rendered(split)][:PROOF_PROMPTS]
    sequences = proof_sequences(rendered)
    trained_logits = sequence_logits(model, sequences)
    generation = generation_config(job.renderer, model, job.recipe.max_new_tokens)
    if method.trains_base:
        base_logits = sequence_logits(load_model(job.checkpoint.path, 32), sequences)
        merged: Any = model
    else:
        with model.disable_adapter():  # type: ignore[operator]
            base_logits = sequence_logits(model, sequences)
        merged = model.merge_and_unload(safe_merge=True)  # type: ignore[operator]
    proof = ship_merged(
        merged,
        job.renderer,
        generation,
        folder / "merged",
        rendered,
        trained_logits,
        base_logits,
        [answer.prediction for answer in answers[: len(rendered)]],
        _card(job, method, seed, scores, plain=True, notes=notes),
    )
    reason = proof.reason
    if reason:
        reason += "; the weights are in trained/" if method.trains_base else "; the adapter is in adapter/"
        logger.warning("%s: no merged checkpoint: %s", method.name, reason)
    if not method.trains_base:
        files.write_text(folder / "adapter" / "README.md", _card(job, method, seed, scores, plain=False, notes=notes))
    details = {name: value for name, value in asdict(proof).items() if name not in ("holds", "reason")}
    return {**record, "merged": proof.holds, "reason": reason, **details}


def _saved_as_trained(job: Job, method: Method, model: nn.Module, trained: Trained) -> dict[str, Any]:
    """Hold the loss of the saved model against that of the trained one: saving changes nothing, other bits little."""
    pad_id = job.renderer.tokenizer.pad_token_id or 0
    shipped = mean_completion_loss(model, job.rendered("validation")[:CHECKED], pad_id, batch_size=8)
    warning = None
    if not abs(shipped - trained.checked_loss) <= LOSS_TOLERANCE * trained.checked_loss + SMALL_LOSS:
        warning = (
            f"the validation loss of what was saved is {shipped:.3f}, of what was trained {trained.checked_loss:.3f}: "
            "the scores are of what was saved"
        )
        logger.warning("%s: %s", method.name, warning)
    return {
        "validation_loss_as_trained": trained.checked_loss,
        "validation_loss_as_shipped": shipped,
        "warning": warning,
    }


def _prediction(answer: Answer) -> dict[str, Any]:
    return {
        **answer.groups,
        "id": answer.id,
        "split": answer.split,
        "source": answer.source,
        "prompt": answer.prompt,
        "reference": answer.reference,
        "prediction": answer.prediction,
        "scores": {"reference_nats": answer.nats, "reference_tokens": answer.tokens},
    }


def read_answers(folder: Path) -> list[Answer]:
    """The answers in `predictions.jsonl` of a method that was carried through before."""
    known = {"id", "split", "source", "prompt", "reference", "prediction", "scores"}
    return [
        Answer(
            id=row["id"],
            split=row["split"],
            prompt=row["prompt"],
            reference=row["reference"],
            prediction=row["prediction"],
            nats=row["scores"]["reference_nats"],
            tokens=row["scores"]["reference_tokens"],
            groups={name: value for name, value in row.items() if name not in known},
            source=row["source"],
        )
        for row in files.read_json_lines(folder / "predictions.jsonl")
    ]


def _card(
    job: Job,
    method: Method,
    seed: int,
    scores: Mapping[str, Score],
    *,
    plain: bool,
    notes: Mapping[str, str] | None = None,
) -> str:
    before = f"import {method.loads_with}  # makes PEFT know the method\n" if method.loads_with else ""
    return model_card(
        title=f"{job.path.stem} by {method.name}",
        checkpoint=job.recipe.checkpoint,
        licence=job.checkpoint.licence,
        method=method.name,
        summary=method.summary,
        recipe=job.path.name,
        seed=seed,
        bits=32 if method.trains_base else job.bits,
        examples=len(job.pairs["train"]),
        scores=[(name, f"{s.value:.2f} ({s.low:.2f} to {s.high:.2f})") for name, s in scores.items()],
        loading=MERGED_LOADING if plain else ADAPTER_LOADING.format(before=before),
        notes=notes or {},
    )
