"""What was trained, opened from disk as its users will."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from workbench.errors import UserError
from workbench.methods import Mergeability, Method
from workbench.models import DEQUANTIZED, ORIGINAL, load_dequantized, release_memory
from workbench.run.folder import TrialFolder
from workbench.run.prepare import Job


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A trained model as it was saved, on the base that its users will run.

    Attributes:
        model: in evaluation mode.
        losses: validation loss on each base that it was tried on, the chosen one's first; nats per token.
        base: of these, the one it is on, `ORIGINAL` or `DEQUANTIZED`; None where there was nothing to choose.
    """

    model: nn.Module
    losses: Mapping[str, float]
    base: str | None = None

    @property
    def loss(self) -> float:
        """The validation loss on the base that it is on."""
        return next(iter(self.losses.values()))


def open_saved(
    job: Job, method: Method, folder: TrialFolder, mergeability: Mergeability, base: str | None = None
) -> SavedModel:
    """Open what was trained, in the precision and on the base that `workbench.models.precision` says.

    Args:
        base: `ORIGINAL` or `DEQUANTIZED`, where the user has chosen.

    Raises:
        UserError: neither an adapter nor weights are there.
    """
    precision = job.precision(method, mergeability)
    if method.trains_base:
        weights = next((path for path in (folder.trained, folder.merged) if path.is_dir()), None)
        if weights is None:
            raise UserError(f"{folder.path} holds no weights: there is nothing to open")
        whole = job.head.load_tuned(weights, precision.scored_bits)
        return SavedModel(model=whole, losses={ORIGINAL: _validation_loss(job, whole)})
    if not precision.bases:
        model = with_adapter(job.head.load(job.checkpoint.path, precision.scored_bits), folder.adapter)
        return SavedModel(model=model, losses={ORIGINAL: _validation_loss(job, model)})
    tried = (base,) if base else precision.bases
    losses = {}
    for name in tried:  # one after the other: there may be no memory for two
        model = with_adapter(load_base(job, name), folder.adapter)
        losses[name] = _validation_loss(job, model)
        if name != tried[-1]:
            del model
            release_memory()
    chosen = min(tried, key=losses.__getitem__)
    if chosen != tried[-1]:
        del model
        release_memory()
        model = with_adapter(load_base(job, chosen), folder.adapter)
    return SavedModel(model=model, losses={chosen: losses[chosen], **losses}, base=chosen)


def load_base(job: Job, name: str) -> nn.Module:
    """The base that an adapter is merged into: `ORIGINAL` or `DEQUANTIZED`, in the precision of what is shipped."""
    if name == DEQUANTIZED:
        return load_dequantized(job.checkpoint.path, job.bits, job.head.load, job.shipped_bits)
    return job.head.load(job.checkpoint.path, job.shipped_bits)


def with_adapter(base: nn.Module, adapter: Path) -> nn.Module:
    """`base` with the adapter that a method left in the folder `adapter`, in evaluation mode.

    Raises:
        UserError: there is none.
    """
    from peft import PeftModel

    from workbench.methods.peft_layers.dora import with_exact_norms

    if not adapter.is_dir():
        raise UserError(f"{adapter} is missing: there is no adapter to open")
    return with_exact_norms(PeftModel.from_pretrained(base, adapter).eval())


def _validation_loss(job: Job, model: nn.Module) -> float:
    pad_id = job.renderer.tokenizer.pad_token_id or 0
    return job.rows.objective.checked_loss(model, job.rows.checked, pad_id, 8)
