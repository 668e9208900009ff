"""Save an adapter; write it into its base and prove that nothing was lost."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn

from workbench import files
from workbench.data.render import Rendered, Renderer
from workbench.models import release_memory

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

# Of the largest logit: what float32 leaves when two orders of the same sums are compared.
LOGIT_TOLERANCE = 1e-4
# A merged checkpoint must be at least so many times farther from the base than from the adapter.
BASE_DISTANCE = 100
GREEDY_TOLERANCE = 0.99
SEQUENCES = 16
# Positions of each sequence, from its end, at which logits are compared: bounds memory for large vocabularies.
POSITIONS = 48


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How a merged checkpoint, reloaded from disk, compares.

    Attributes:
        holds: equal to what was trained, and not equal to the base.
        reason: why not, where it does not hold.
        max_abs_logit_difference: to the trained model's logits.
        max_abs_logit: the largest logit, by which that is to be judged.
        base_logit_difference: largest difference of the base's logits to the trained model's.
        greedy_agreement: share of prompts with the same greedy text.
        prompts: their number.

    A figure is None where it could not be taken, or is no finite number.
    """

    holds: bool
    reason: str | None
    max_abs_logit_difference: float | None
    max_abs_logit: float | None
    base_logit_difference: float | None
    greedy_agreement: float | None
    prompts: int


def save_adapter(model: nn.Module, tokenizer: Any, folder: Path, checkpoint: str, card: str) -> int:
    """Save the adapter of a PEFT model so that PEFT loads it, with the tokenizer and template of its prompts.

    Args:
        checkpoint: name of the base, written into the adapter's configuration in place of a path of this machine.
        card: text of the README.

    Returns:
        Bytes of its weights.
    """
    with files.whole_folder(folder) as aside:
        for config in model.peft_config.values():  # type: ignore[operator]
            config.base_model_name_or_path = checkpoint
        # No method here changes the vocabulary; asked to find out, PEFT would look for the base on a hub.
        model.save_pretrained(aside, safe_serialization=True, save_embedding_layers=False)  # type: ignore[operator]
        tokenizer.save_pretrained(aside)
        files.write_text(aside / "README.md", card)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@torch.inference_mode()
def sequence_logits(model: nn.Module, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Logits of the last `POSITIONS` tokens of each sequence, of shape (positions, vocabulary)."""
    place = next(model.parameters()).device
    return [model(torch.tensor([ids], device=place)).logits[0, -POSITIONS:].float().cpu() for ids in sequences]


def proof_sequences(rendered: Sequence[Rendered]) -> list[list[int]]:
    """The held-out sequences, prompt and reference, on which logits are compared."""
    return [item.prompt_ids + item.completion_ids for item in rendered[:SEQUENCES]]


def ship_merged(
    merged: "PreTrainedModel",
    renderer: Renderer,
    generation: "GenerationConfig",
    folder: Path,
    rendered: Sequence[Rendered],
    trained_logits: Sequence[torch.Tensor],
    base_logits: Sequence[torch.Tensor],
    trained_texts: Sequence[str],
    card: str,
) -> Proof:
    """Save `merged` to `folder`, if what a fresh process reads from disk is what was trained.

    Args:
        merged: the base with the adapter in its weights, or the fully trained model.
        generation: how predictions were made; saved with the checkpoint.
        rendered: held-out examples.
        trained_logits, base_logits: of `proof_sequences(rendered)`, by the trained model and by the base.
        trained_texts: the trained model's greedy answers to `rendered`.
        card: text of the README.

    Returns:
        The proof; if it doesn't hold, there is no `folder`.
    """
    try:
        with files.whole_folder(folder) as aside:
            merged.generation_config = generation
            merged.save_pretrained(aside, safe_serialization=True)
            renderer.tokenizer.save_pretrained(aside)
            files.write_text(aside / "README.md", card)
            merged.cpu()  # the fresh process needs the accelerator's memory
            release_memory()
            texts, logits = _reload(aside, rendered, generation.max_new_tokens)
            proof = compare(logits, trained_logits, base_logits, texts, trained_texts)
            if not proof.holds:
                raise _NotEqualError(proof)
    except _NotEqualError as error:
        return error.proof
    return proof


class _NotEqualError(Exception):
    def __init__(self, proof: Proof) -> None:
        super().__init__(proof.reason)
        self.proof = proof


def _reload(
    folder: Path, rendered: Sequence[Rendered], max_new_tokens: int | None
) -> tuple[list[str], list[torch.Tensor]]:
    request: dict[str, Any] = {
        "sequences": proof_sequences(rendered),
        "prompts": [item.prompt_ids for item in rendered],
        "max_new_tokens": max_new_tokens,
        "positions": POSITIONS,
    }
    with tempfile.TemporaryDirectory() as temporary:
        asked, answered = Path(temporary, "request.json"), Path(temporary, "answer.safetensors")
        files.write_json(asked, request)
        # -I keeps this project and the caller's environment out of the process; transformers stays offline.
        result = subprocess.run(
            [
                sys.executable,
                "-I",
                str(Path(__file__).with_name("reload.py")),
                str(folder),
                str(asked),
                str(answered),
            ],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        if result.returncode:
            last = result.stderr.strip().splitlines()[-1:] or ["no message"]
            raise _NotEqualError(
                Proof(
                    holds=False,
                    reason=f"a fresh process could not run it: {last[0]}",
                    max_abs_logit_difference=None,
                    max_abs_logit=None,
                    base_logit_difference=None,
                    greedy_agreement=None,
                    prompts=len(rendered),
                )
            )
        tensors = load_file(answered)
        return json.loads(result.stdout.splitlines()[-1]), [tensors[str(n)] for n in range(len(tensors))]


def compare(
    logits: Sequence[torch.Tensor],
    trained_logits: Sequence[torch.Tensor],
    base_logits: Sequence[torch.Tensor],
    texts: Sequence[str],
    trained_texts: Sequence[str],
) -> Proof:
    """Judge a reloaded checkpoint by its logits and texts beside those of the trained model and of the base."""
    difference = _largest_difference(logits, trained_logits)
    base_difference = _largest_difference(base_logits, trained_logits)
    largest = max(float(t.abs().max()) for t in trained_logits)
    agreement = sum(a == b for a, b in zip(texts, trained_texts, strict=True)) / len(texts)
    reason = None
    if not difference <= LOGIT_TOLERANCE * largest:
        reason = f"its logits differ from the trained model's by {difference:.2g} (largest logit {largest:.3g})"
    elif not base_difference > BASE_DISTANCE * difference:
        reason = (
            f"it can't be told from the base, whose logits differ from the trained model's by {base_difference:.2g}"
        )
    elif agreement < GREEDY_TOLERANCE:
        reason = f"its greedy answers equal the trained model's on {agreement:.1%} of {len(texts)} prompts only"
    return Proof(
        holds=reason is None,
        reason=reason,
        max_abs_logit_difference=_finite(difference),
        max_abs_logit=_finite(largest),
        base_logit_difference=_finite(base_difference),
        greedy_agreement=agreement,
        prompts=len(texts),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _largest_difference(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True))
