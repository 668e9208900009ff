"""Save a plain checkpoint, and prove that nothing was lost."""

import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench import files
from workbench.data.render import Rendered
from workbench.errors import without_places
from workbench.export.diagnosis import Source, diagnosis
from workbench.export.interface import Interface, misfit
from workbench.export.older import write_older_forms
from workbench.export.process import FreshProcess, Question, ReadBack
from workbench.export.verify import MANIFEST_FILE, checksums_of
from workbench.models import plain_model, release_memory

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel
logger = logging.getLogger(__name__)

# Of the largest logit: what float32 leaves when two orders of the same sums are compared.
LOGIT_TOLERANCE = 1e-5
# A merged checkpoint must be at least so many times farther from the base than from the adapter.
BASE_DISTANCE = 100
# The same for one in bfloat16, whose logits are rounded; there is no bound on them but this.
ROUNDED_BASE_DISTANCE = 2
GREEDY_TOLERANCE = 0.99
# What a bfloat16 checkpoint must reach of single tokens.
TOKEN_TOLERANCE = 0.95
SEQUENCES = 16
# Positions of each sequence, from its end, at which logits are compared, and the most numbers of all of them.
POSITIONS = 48
NUMBERS = 2**26
# Of a file of weights, at most.
SHARD = "2GB"
# Of the first sequence those at which hidden states are compared, where a proof has failed.
STATES = 8


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

    @property
    def equal(self) -> bool:
        """Its logits are the trained model's, as far as float32 tells."""
        difference, largest = self.max_abs_logit_difference, self.max_abs_logit
        return difference is not None and largest is not None and difference <= LOGIT_TOLERANCE * largest


@torch.inference_mode()
def sequence_logits(model: nn.Module, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Logits of the last tokens of each sequence, at most `POSITIONS`, of shape (positions, vocabulary)."""
    plain: Any = plain_model(model)
    place, entries = next(model.parameters()).device, plain.get_output_embeddings().weight.shape[0]
    most = min(POSITIONS, max(1, NUMBERS // (SEQUENCES * entries)))
    keeps = "logits_to_keep" in inspect.signature(plain.forward).parameters
    found = []
    for ids in sequences:
        count = min(most, len(ids))  # behind a soft prompt there are more
        kept = {"logits_to_keep": count} if keeps else {}
        logits = model(input_ids=torch.tensor([ids], device=place), **kept).logits
        found.append(logits[0, -count:].float().cpu())
    return found


def proof_sequences(rendered: Sequence[Rendered], classes: bool = False) -> list[list[int]]:
    """The held-out sequences, prompt and reference, on which logits are compared; for classes, all prompts."""
    if classes:
        return [item.prompt_ids for item in rendered]
    return [item.prompt_ids + item.completion_ids for item in rendered[:SEQUENCES]]


@torch.inference_mode()
def sequence_states(model: nn.Module, sequence: Sequence[int]) -> torch.Tensor | None:
    """Hidden states of the last `STATES` tokens behind the embeddings and each layer, (layers + 1, tokens, width).

    None of a model that tells none, or whose layers differ in width.
    """
    place = next(model.parameters()).device
    output = model(input_ids=torch.tensor([sequence], device=place), output_hidden_states=True)
    states = [state[0, -STATES:].float().cpu() for state in output.hidden_states or ()]
    return torch.stack(states) if len({state.shape for state in states}) == 1 else None


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a plain checkpoint is held against.

    Attributes:
        logits: of the held-out sequences, by the trained model.
        base_logits: gives those by the base, when the trained model is no longer held: there may be no memory for two.
        texts: the trained model's greedy answers to the held-out prompts; of a head of classes, the likeliest class.
        classes: it is of a head of classes: logits are of those, (1, classes), and the class must be the same of all
            prompts.
        interface: gives how the trained model was asked, at the time of asking: a template may write the date. It has a
            tokenizer of its own, since the export's may be the run's, changed.
        new_entries: ids in the vocabulary that stand for a soft prompt in front of every text, which the trained model
            doesn't have.
        states: `sequence_states` of the trained model for the first sequence; None of a head of classes.
        source: from what the checkpoint was merged, by which a fault is explained.
    """

    logits: Sequence[torch.Tensor]
    base_logits: Callable[[], Sequence[torch.Tensor]]
    texts: Sequence[str]
    interface: Callable[[], Interface]
    classes: bool = False
    new_entries: Sequence[int] = ()
    states: torch.Tensor | None = None
    source: Source | None = None


def write_proven(
    merged: "PreTrainedModel",
    tokenizer: Any,
    generation: "GenerationConfig | None",
    folder: Path,
    held_out: Sequence[Rendered],
    expected: Expected,
    card: str,
    process: FreshProcess,
    max_new_tokens: int,
    precision: torch.dtype = torch.float32,
    provenance: Mapping[str, Any] | None = None,
) -> Proof:
    """Save `merged` to `folder`, if what a fresh process reads from disk is what was trained.

    Args:
        merged: the model that transformers runs by itself, in the precision to save. It is given back before the proof,
            and of no use afterwards.
        precision: which that is to be.
        tokenizer: its own, chat template included.
        generation: how predictions were made; saved with the checkpoint. None for a head of classes.
        max_new_tokens: of an answer. It is not saved: it would bound whatever else is asked of the checkpoint.
        held_out: examples as `tokenizer` renders them.
        expected: what the same examples gave before.
        card: text of the README.
        provenance: from what it was made, for its `MANIFEST.json`.

    Returns:
        The proof; if it doesn't hold, there is no `folder`.
    """
    try:
        with files.whole_folder(folder) as aside:
            if generation is not None:
                merged.generation_config = generation
            merged.save_pretrained(aside, safe_serialization=True, max_shard_size=SHARD)
            tokenizer.save_pretrained(aside)
            write_older_forms(aside)
            files.write_text(aside / "README.md", card)
            nn.Module.to(merged, "meta")  # the fresh process needs the memory, and others still hold the model
            release_memory()
            proof = _read_back(aside, process, held_out, expected, max_new_tokens, precision)
            if not proof.holds:
                raise _NotEqualError(proof)
            manifest = {**(provenance or {}), "proof": asdict(proof), "files": checksums_of(aside)}
            files.write_json(aside / MANIFEST_FILE, manifest)
    except _NotEqualError as error:
        return error.proof
    return proof


def _read_back(
    folder: Path,
    process: FreshProcess,
    held_out: Sequence[Rendered],
    expected: Expected,
    max_new_tokens: int,
    precision: torch.dtype,
) -> Proof:
    """Judge what a fresh process reads in `folder`; where it is not what was trained, say what kind of fault it is."""
    before = expected.interface()
    question = Question(
        sequences=proof_sequences(held_out, expected.classes),
        positions=[len(t) for t in expected.logits],
        states=STATES,
        prompts=[item.text for item in held_out],
        max_new_tokens=max_new_tokens,
        conversations=before.conversations,
        texts=before.texts,
    )
    try:
        read = process.read(folder, question)
    except RuntimeError as error:
        return _refused(f"a fresh process could not run it: {without_places(str(error))}", len(held_out))
    reason = _unfit(read, precision, expected)
    if reason is None and (reason := misfit(read, before, expected.new_entries, expected.classes)) is not None:
        reason = misfit(read, expected.interface(), expected.new_entries, expected.classes)  # it may be another day
    if reason is not None:
        return _refused(reason, len(held_out))
    exact = precision == torch.float32
    proof = compare(read.logits, read.texts, expected, exact)
    if exact and not proof.equal:
        return replace(proof, reason=f"{proof.reason}{_kind(folder, expected, read)}")
    return proof


def _kind(folder: Path, expected: Expected, read: ReadBack) -> str:
    """What kind of fault a checkpoint has, behind the reason; nothing that goes wrong here may hide the reason."""
    try:
        kind = diagnosis(folder, expected.source, read.states, expected.states)
    except Exception as error:  # noqa: BLE001  the reason is known, its kind is not
        logger.warning("what kind of fault it is could not be found out: %s", error)
        kind = None
    return f"; {kind}" if kind else ""


def _unfit(read: ReadBack, precision: torch.dtype, expected: Expected) -> str | None:
    """Why weights are not what the checkpoint's configuration says."""
    for name, keys in read.misfits.items():
        if keys:
            return f"{len(keys)} {name.replace('_', ' ')}: {', '.join(keys[:3])}{', ...' * (len(keys) > 3)}"
    if read.not_finite:
        return f"numbers in {', '.join(read.not_finite[:3])} are infinite or none"
    if f"torch.{read.dtype}" != str(precision):
        return f"its weights are in {read.dtype}, and not in {str(precision).removeprefix('torch.')}"
    entries, right = read.logits[0].shape[1], expected.logits[0].shape[1]
    if entries < right:
        return f"it has logits of {entries} entries, the trained model of {right}"
    return None


class _NotEqualError(Exception):
    def __init__(self, proof: Proof) -> None:
        super().__init__(proof.reason)
        self.proof = proof


def _refused(reason: str, prompts: int) -> Proof:
    return Proof(
        holds=False,
        reason=reason,
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
    exact: bool = True,
) -> Proof:
    """Judge a reloaded checkpoint by its logits and texts beside those of the trained model and of the base.

    Args:
        logits: of each sequence, (positions, vocabulary), the vocabulary at least the trained model's.
        exact: the checkpoint is in float32. One in bfloat16 is held to single tokens: a long text changes with one.
    """
    known = torch.ones(expected.logits[0].shape[1], dtype=torch.bool)
    known[[entry for entry in expected.new_entries if entry < len(known)]] = False
    logits = [t[:, : len(known)][:, known] for t in logits]
    before, base = [t[:, known] for t in expected.logits], [t[:, known] for t in expected.base_logits()]
    difference = _largest_difference(logits, before)
    base_difference = _largest_difference(base, before)
    largest = max(float(t.abs().max()) for t in before)
    agreement = sum(a.strip() == b.strip() for a, b in zip(texts, expected.texts, strict=True)) / len(texts)
    same = torch.cat([a.argmax(dim=1) == b.argmax(dim=1) for a, b in zip(logits, before, strict=True)])
    token_agreement = float(same.float().mean())
    reason = None
    if (exact and not difference <= LOGIT_TOLERANCE * largest) or not math.isfinite(difference):
        reason = f"its logits differ from the trained model's by {difference:.2g} (largest logit {largest:.3g})"
    elif exact and not base_difference > LOGIT_TOLERANCE * largest:
        reason = f"nothing was trained: the base's logits differ from the trained model's by {base_difference:.2g} only"
    elif not base_difference > (BASE_DISTANCE if exact else ROUNDED_BASE_DISTANCE) * difference:
        reason = (
            f"it can't be told from the base, whose logits differ from the trained model's by {base_difference:.2g}, "
            f"its own by {difference:.2g}"
        )
    elif expected.classes and exact and agreement < 1:
        reason = f"its classes equal the trained model's on {agreement:.1%} of {len(texts)} prompts only"
    elif not exact and not expected.classes and token_agreement < TOKEN_TOLERANCE:
        reason = f"its likeliest tokens equal the trained model's at {token_agreement:.1%} of positions only"
    elif (exact or expected.classes) and agreement < GREEDY_TOLERANCE:
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
