"""The README of what a run ships: an adapter, or a merged checkpoint."""

import tempfile
from collections.abc import Mapping
from typing import Any

import torch

from workbench.export.card import model_card
from workbench.methods import Method
from workbench.models import DEQUANTIZED, ORIGINAL
from workbench.results import Score
from workbench.run.prepare import Job

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
        title=f"{job.recipe.name} by {method.name}",
        checkpoint=job.recipe.checkpoint,
        licence=job.checkpoint.licence,
        method=method.name,
        summary=method.summary,
        recipe=job.recipe.name,
        seed=seed,
        bits=job.precision(method).trained_bits,
        examples=len(job.pairs["train"]),
        scores=[(name, f"{s.value:.2f} ({s.low:.2f} to {s.high:.2f})") for name, s in scores.items()],
        loading=MERGED_LOADING if merged else adapter_loading(job, method),
        notes=notes or {},
    )


def adapter_loading(job: Job, method: Method) -> str:
    """Python that loads the adapter on the base that its scores are of."""
    precision = job.precision(method)
    dtype = "bfloat16" if precision.loading_dtype == torch.bfloat16 else "float32"
    lines = ["from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    arguments = f'"PATH OF THE BASE", dtype="{dtype}"'
    if precision.scored_bits < 16:
        lines[1] = "from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig"
        asked = "load_in_8bit=True" if precision.scored_bits == 8 else NF4_ARGUMENTS
        lines.append(f"held = BitsAndBytesConfig({asked})")
        arguments += ", quantization_config=held"
    if method.loads_with:
        lines.insert(2, f"import {method.loads_with}  # makes PEFT know the method")
    lines += [
        f"base = AutoModelForCausalLM.from_pretrained({arguments})",
        'tokenizer = AutoTokenizer.from_pretrained("adapter")',
        'model = PeftModel.from_pretrained(base, "adapter")',
    ]
    return "\n".join(lines)


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
