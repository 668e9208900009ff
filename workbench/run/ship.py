"""What becomes of a trained method: the base it is shipped on, a plain checkpoint if there can be one, a model card."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.data import Example
from workbench.data.render import Rendered, Renderer
from workbench.evaluation import Prediction, Score, answer_all, generation_config
from workbench.export import Expected, FreshProcess, proof_sequences, sequence_logits, write_proven
from workbench.export.card import model_card
from workbench.methods import Method
from workbench.models import bfloat16_is_fast, load_dequantized, load_model, release_memory
from workbench.run.prepare import Job
from workbench.training import mean_completion_loss

logger = logging.getLogger(__name__)

# Held-out prompts on which an export must give the same text.
PROOF_PROMPTS = 100
ORIGINAL, DEQUANTIZED = "original", "dequantized"
BASES = {
    ORIGINAL: "its original weights in float32",
    DEQUANTIZED: "the weights that training saw, dequantized to float32",
}

NF4_ARGUMENTS = 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True'
MERGED_LOADING = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("merged")
tokenizer = AutoTokenizer.from_pretrained("merged")
chat = [{"role": "user", "content": "..."}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
answer = model.generate(**inputs)"""


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A trained model as it was saved, on the base that its users will run.

    Attributes:
        model: in evaluation mode.
        losses: validation loss on each base that it was tried on, the chosen one's first; nats per token.
        base: of these, the one it is on; None where there was nothing to choose.
    """

    model: nn.Module
    losses: Mapping[str, float]
    base: str | None = None

    @property
    def loss(self) -> float:
        """The validation loss on the base that it is on."""
        return next(iter(self.losses.values()))


def open_shipped(job: Job, method: Method, folder: Path, plain: bool, base: str | None = None) -> Shipped:
    """Open what was trained as its users will.

    What can become a plain checkpoint is put on weights in float32: the original ones, in which batches don't change
    answers; or, if it was trained at 8 or 4 bits, on the better of those and the dequantized ones that training saw.
    What stays an adapter on a quantized base is run on that.

    Args:
        plain: whether it can become a plain checkpoint.
        base: `ORIGINAL` or `DEQUANTIZED`, where the user has chosen.
    """
    if method.trains_base:
        weights = next(path for name in ("trained", "merged") if (path := folder / name).is_dir())
        whole = load_model(weights, 32)
        return Shipped(model=whole, losses={ORIGINAL: _validation_loss(job, whole)})
    if not plain:
        model = with_adapter(load_model(job.checkpoint.path, job.bits if job.bits < 16 else 32), folder)
        return Shipped(model=model, losses={ORIGINAL: _validation_loss(job, model)})
    tried = [base] if base else [ORIGINAL, DEQUANTIZED] if job.bits < 16 else [ORIGINAL]
    losses = {}
    for name in tried:  # one after the other: there may be no memory for two
        model = with_adapter(_base(job, name), folder)
        losses[name] = _validation_loss(job, model)
        if name != tried[-1]:
            del model
            release_memory()
    chosen = min(tried, key=losses.__getitem__)
    if chosen != tried[-1]:
        del model
        release_memory()
        model = with_adapter(_base(job, chosen), folder)
    return Shipped(model=model, losses={chosen: losses[chosen], **losses}, base=chosen)


def _base(job: Job, name: str) -> nn.Module:
    if name == DEQUANTIZED:
        return load_dequantized(job.checkpoint.path, job.bits)
    return load_model(job.checkpoint.path, 32)


def with_adapter(base: nn.Module, folder: Path) -> nn.Module:
    """`base` with what a method left in `folder`/adapter, in evaluation mode."""
    from peft import PeftModel

    from workbench.methods.peft_layers.dora import with_exact_norms

    return with_exact_norms(PeftModel.from_pretrained(base, folder / "adapter").eval())


def _validation_loss(job: Job, model: nn.Module) -> float:
    pad_id = job.renderer.tokenizer.pad_token_id or 0
    return mean_completion_loss(model, job.rows.checked, pad_id, batch_size=8)


def first_pairs(job: Job, count: int) -> dict[str, Sequence[tuple[Example, Rendered]]]:
    """The first `count` evaluated examples, by split."""
    found = {}
    for split, pairs in job.evaluated.items():
        found[split] = pairs[:count]
        count -= len(found[split])
    return found


def ship(
    job: Job,
    method: Method,
    seed: int,
    folder: Path,
    shipped: Shipped,
    answers: Sequence[Prediction],
    scores: Mapping[str, Score],
    process: FreshProcess | None = None,
    precision: torch.dtype = torch.float32,
    scored: str = "of what is shipped",
    accept_rounding: bool = False,
) -> tuple[dict[str, Any], Renderer]:
    """Make a plain checkpoint of what can become one, and prove it.

    Args:
        folder: where it goes, whole or not at all.
        shipped: of a method with a plain checkpoint; its model is changed by it.
        answers: the model's, to the evaluated examples.
        process: one that is open already.
        precision: of the saved weights.
        scored: what `scores` are of, for the card.
        accept_rounding: of a checkpoint in bfloat16, hold single tokens to be the same and not whole texts.

    Returns:
        The record's `export`, and how examples are rendered for the plain checkpoint.
    """
    record: dict[str, Any] = {}
    notes = {}
    if job.bits < 32 and not method.trains_base:
        assert shipped.base is not None
        record["base"] = f"trained on the base at {job.bits} bits, merged into {BASES[shipped.base]}"
        notes["Base of the merge"] = record["base"]
    notes["Scores"] = scored
    if len(shipped.losses) > 1:
        record["validation_loss_by_base"] = dict(shipped.losses)
    pairs = [pair for split in first_pairs(job, PROOF_PROMPTS).values() for pair in split]
    sequences = proof_sequences([rendered for _, rendered in pairs])
    model: Any = shipped.model
    logits = sequence_logits(model, sequences)
    if method.trains_base:
        base_logits = sequence_logits(load_model(job.checkpoint.path, 32), sequences)
    else:
        with model.disable_adapter():
            base_logits = sequence_logits(model, sequences)
    texts = [answer.prediction for answer in answers[: len(pairs)]]
    if any(answer.choices for answer in answers[: len(pairs)]):  # which choice is likeliest is no greedy text
        written = answer_all(
            model, job.renderer, first_pairs(job, PROOF_PROMPTS), job.recipe.max_new_tokens, f"{method.name}: texts"
        )
        texts = [answer.prediction for answer in written]
    generation = generation_config(job.renderer, model, job.recipe.max_new_tokens)
    assert method.plain is not None
    plain: Any
    plain, tokenizer = method.plain(model, job.renderer.tokenizer)
    if tokenizer is not job.renderer.tokenizer:
        notes["Prompt"] = prompt_note(tokenizer, len(tokenizer) - len(job.renderer.tokenizer))
    generation.suppress_tokens = plain.generation_config.suppress_tokens
    renderer = Renderer(tokenizer=tokenizer, end_of_turn=job.renderer.end_of_turn)
    with nullcontext(process) if process is not None else FreshProcess() as reader:
        proof = write_proven(
            plain.to(precision),
            tokenizer,
            generation,
            folder,
            [renderer.render(example) for example, _ in pairs],
            Expected(logits=logits, base_logits=base_logits, texts=texts),
            card(job, method, seed, scores, plain=True, notes=notes),
            reader,
            accept_rounding,
        )
    details = {name: value for name, value in asdict(proof).items() if name not in ("holds", "reason")}
    return {"merged": proof.holds, "reason": proof.reason, **details, **record}, renderer


def prompt_note(tokenizer: Any, count: int) -> str:
    """How the trained entries of the vocabulary come before a text, as the tokenizer is after saving and loading."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        raw = AutoTokenizer.from_pretrained(folder)("a")["input_ids"]
    note = (
        f"the trained vectors are the last {count} entries of the vocabulary, and the chat template puts them in front"
    )
    if raw[:count] != list(range(len(tokenizer) - count, len(tokenizer))):
        return f"{note}; raw text needs them in front, too"
    return (
        f"{note}. The tokenizer puts them before raw text, as it does with other special tokens: text that comes from "
        "the template is to be tokenized with `add_special_tokens=False`, or it has them twice"
    )


def adapter_loading(job: Job, method: Method) -> str:
    """Python that loads the adapter on the base that its scores are of."""
    lines = ["from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    arguments = '"PATH OF THE BASE", dtype="float32"'
    if job.bits < 16 and method.name in job.adapter_only:
        lines[1] = "from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig"
        asked = "load_in_8bit=True" if job.bits == 8 else NF4_ARGUMENTS
        lines.append(f"held = BitsAndBytesConfig({asked})")
        arguments = (
            f'"PATH OF THE BASE", dtype="{"bfloat16" if bfloat16_is_fast() else "float32"}", quantization_config=held'
        )
    if method.loads_with:
        lines.insert(2, f"import {method.loads_with}  # makes PEFT know the method")
    lines += [
        f"base = AutoModelForCausalLM.from_pretrained({arguments})",
        'tokenizer = AutoTokenizer.from_pretrained("adapter")',
        'model = PeftModel.from_pretrained(base, "adapter")',
    ]
    return "\n".join(lines)


def card(
    job: Job,
    method: Method,
    seed: int,
    scores: Mapping[str, Score],
    *,
    plain: bool,
    notes: Mapping[str, str] | None = None,
) -> str:
    """The README of what is shipped."""
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
        loading=MERGED_LOADING if plain else adapter_loading(job, method),
        notes=notes or {},
    )
