"""Save a plain checkpoint, and prove that nothing was lost."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors.torch import load_file
from torch import nn

from workbench import files
from workbench.data.render import Rendered
from workbench.export.older import write_older_forms
from workbench.models import release_memory
from workbench.script import Script

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

# Of the largest logit: what float32 leaves when two orders of the same sums are compared.
LOGIT_TOLERANCE = 1e-5
# A merged checkpoint must be at least so many times farther from the base than from the adapter.
BASE_DISTANCE = 100
# The same for one in bfloat16, whose logits are rounded; there is no bound on them but this.
ROUNDED_BASE_DISTANCE = 2
GREEDY_TOLERANCE = 0.99
# What a bfloat16 checkpoint must reach of single tokens, where its user accepts what rounding does to whole texts.
TOKEN_TOLERANCE = 0.95
SEQUENCES = 16
# In a checkpoint: what it was made from, how it was proven, and the sha256 of its other files.
MANIFEST_FILE = "MANIFEST.json"
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
        greedy_token_agreement: share of the compared positions with the same likeliest token, given the same text.
        prompts: their number.

    A figure is None where it could not be taken, or is no finite number.
    """

    holds: bool
    reason: str | None
    max_abs_logit_difference: float | None
    max_abs_logit: float | None
    base_logit_difference: float | None
    greedy_agreement: float | None
    greedy_token_agreement: float | None
    prompts: int


@torch.inference_mode()
def sequence_logits(model: nn.Module, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Logits of the last `POSITIONS` tokens of each sequence, of shape (positions, vocabulary)."""
    place = next(model.parameters()).device
    return [
        model(input_ids=torch.tensor([ids], device=place)).logits[0, -count:].float().cpu()
        for ids, count in zip(sequences, positions(sequences), strict=True)
    ]


def positions(sequences: Sequence[Sequence[int]]) -> list[int]:
    """How many positions of each sequence, from its end, are compared."""
    return [min(POSITIONS, len(ids)) for ids in sequences]


def proof_sequences(rendered: Sequence[Rendered], classes: bool = False) -> list[list[int]]:
    """The held-out sequences, prompt and reference, on which logits are compared; for classes, all prompts."""
    if classes:
        return [item.prompt_ids for item in rendered]
    return [item.prompt_ids + item.completion_ids for item in rendered[:SEQUENCES]]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a plain checkpoint is held against.

    Attributes:
        logits, base_logits: of the held-out sequences, by the trained model and by the base.
        texts: the trained model's greedy answers to the held-out prompts; of a head of classes, the likeliest class.
        classes: it is of a head of classes: logits are of those, (1, classes), and the class must be the same of all
            prompts.
    """

    logits: Sequence[torch.Tensor]
    base_logits: Sequence[torch.Tensor]
    texts: Sequence[str]
    classes: bool = False


# Of a process that asks no hub for anything.
ALONE = {"HF_HUB_OFFLINE": "1", "USE_HUB_KERNELS": "0", "TOKENIZERS_PARALLELISM": "false"}


class FreshProcess:
    """A process with transformers alone, in which checkpoints are read from disk, one after the other."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._script = Script(Path(__file__).with_name("reload.py"), environment=ALONE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._script.close()
        self._folder.cleanup()

    def start(self) -> None:
        """Have it ready: its imports take longer than what it is asked.

        Raises:
            RuntimeError: it could not be started; the message says why.
        """
        self._ask({})

    def _ask(self, paths: Mapping[str, Path]) -> dict[str, Any]:
        """Its answer to a request, which stands in files.

        Raises:
            RuntimeError: it could not give one.
        """
        answer: dict[str, Any] = self._script.ask({name: str(path) for name, path in paths.items()})
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def read(
        self,
        checkpoint: Path,
        sequences: Sequence[Sequence[int]],
        counts: Sequence[int],
        prompts: Sequence[str],
        max_new_tokens: int,
    ) -> tuple[list[str], list[torch.Tensor]]:
        """Greedy continuations of `prompts`, and the logits of the last `counts` tokens of `sequences`.

        Of a head of classes, the likeliest classes of `prompts`, and the logits of `sequences`.

        Raises:
            RuntimeError: transformers could not run it; the message says why.
        """
        folder = Path(self._folder.name)
        asked, answered = folder / "request.json", folder / "answer.safetensors"
        files.write_json(
            asked,
            {
                "sequences": sequences,
                "prompts": prompts,
                "max_new_tokens": max_new_tokens,
                "positions": counts,
            },
        )
        answer = self._ask({"checkpoint": checkpoint.resolve(), "request": asked, "answer": answered})
        tensors = load_file(answered)
        return answer["texts"], [tensors[str(number)] for number in range(len(tensors))]


def write_proven(
    merged: "PreTrainedModel",
    tokenizer: Any,
    generation: "GenerationConfig | None",
    folder: Path,
    held_out: Sequence[Rendered],
    expected: Expected,
    card: str,
    process: FreshProcess,
    accept_rounding: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Proof:
    """Save `merged` to `folder`, if what a fresh process reads from disk is what was trained.

    Args:
        merged: the model that transformers runs by itself, in the precision to save.
        tokenizer: its own, chat template included.
        generation: how predictions were made; saved with the checkpoint. None for a head of classes.
        held_out: examples as `tokenizer` renders them.
        expected: what the same examples gave before.
        card: text of the README.
        accept_rounding: of a checkpoint in bfloat16, hold single tokens to be the same and not whole texts.
        provenance: from what it was made, for its `MANIFEST.json`.

    Returns:
        The proof; if it doesn't hold, there is no `folder`.
    """
    try:
        with files.whole_folder(folder) as aside:
            if generation is not None:
                merged.generation_config = generation
            merged.save_pretrained(aside, safe_serialization=True)
            tokenizer.save_pretrained(aside)
            write_older_forms(aside)
            files.write_text(aside / "README.md", card)
            merged.cpu()  # the fresh process needs the accelerator's memory
            release_memory()
            try:
                texts, logits = process.read(
                    aside,
                    proof_sequences(held_out, expected.classes),
                    [len(t) for t in expected.logits],
                    [item.text for item in held_out],
                    (generation.max_new_tokens if generation else None) or 1,
                )
            except RuntimeError as error:
                raise _NotEqualError(_unread(str(error), len(held_out))) from error
            new = (generation.suppress_tokens if generation else None) or []
            exact = merged.dtype == torch.float32
            proof = compare(logits, texts, expected, new, exact, accept_rounding and not exact)
            if not proof.holds:
                raise _NotEqualError(proof)
            checksums = {path.name: files.sha256_of(path) for path in sorted(aside.iterdir())}
            files.write_json(aside / MANIFEST_FILE, {**(provenance or {}), "proof": asdict(proof), "files": checksums})
    except _NotEqualError as error:
        return error.proof
    return proof


class _NotEqualError(Exception):
    def __init__(self, proof: Proof) -> None:
        super().__init__(proof.reason)
        self.proof = proof


def _unread(why: str, prompts: int) -> Proof:
    return Proof(
        holds=False,
        reason=f"a fresh process could not run it: {why}",
        max_abs_logit_difference=None,
        max_abs_logit=None,
        base_logit_difference=None,
        greedy_agreement=None,
        greedy_token_agreement=None,
        prompts=prompts,
    )


def compare(
    logits: Sequence[torch.Tensor],
    texts: Sequence[str],
    expected: Expected,
    new_entries: Sequence[int] = (),
    exact: bool = True,
    accept_rounding: bool = False,
) -> Proof:
    """Judge a reloaded checkpoint by its logits and texts beside those of the trained model and of the base.

    Args:
        logits: of each sequence, (positions, vocabulary), the vocabulary at least the trained model's.
        new_entries: of the vocabulary, which the trained model doesn't have.
        exact: the checkpoint is in float32; one in bfloat16 is held to its texts.
        accept_rounding: or to single tokens.
    """
    known = torch.ones(expected.logits[0].shape[1], dtype=torch.bool)
    known[[entry for entry in new_entries if entry < len(known)]] = False
    logits = [t[:, : len(known)][:, known] for t in logits]
    before, base = [t[:, known] for t in expected.logits], [t[:, known] for t in expected.base_logits]
    difference = _largest_difference(logits, before)
    base_difference = _largest_difference(base, before)
    largest = max(float(t.abs().max()) for t in before)
    agreement = sum(a.strip() == b.strip() for a, b in zip(texts, expected.texts, strict=True)) / len(texts)
    same = torch.cat([a.argmax(dim=1) == b.argmax(dim=1) for a, b in zip(logits, before, strict=True)])
    token_agreement = float(same.float().mean())
    reason = None
    if (exact and not difference <= LOGIT_TOLERANCE * largest) or not math.isfinite(difference):
        reason = f"its logits differ from the trained model's by {difference:.2g} (largest logit {largest:.3g})"
    elif not base_difference > (BASE_DISTANCE if exact else ROUNDED_BASE_DISTANCE) * difference:
        reason = (
            f"it can't be told from the base, whose logits differ from the trained model's by {base_difference:.2g}, "
            f"its own by {difference:.2g}"
        )
    elif expected.classes and exact and agreement < 1:
        reason = f"its classes equal the trained model's on {agreement:.1%} of {len(texts)} prompts only"
    elif accept_rounding and token_agreement < TOKEN_TOLERANCE:
        reason = f"its likeliest tokens equal the trained model's at {token_agreement:.1%} of positions only"
    elif not accept_rounding and agreement < GREEDY_TOLERANCE:
        reason = f"its greedy answers equal the trained model's on {agreement:.1%} of {len(texts)} prompts only"
    return Proof(
        holds=reason is None,
        reason=reason,
        max_abs_logit_difference=_finite(difference),
        max_abs_logit=_finite(largest),
        base_logit_difference=_finite(base_difference),
        greedy_agreement=agreement,
        greedy_token_agreement=token_agreement,
        prompts=len(texts),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _largest_difference(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True))
