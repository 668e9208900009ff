"""Why a checkpoint is not what was trained: what its weights, or the states behind its layers, tell.

Asked only where a proof has failed. A fault in a merge leaves its mark in the weights: the base plus s times the update
of the adapter, with s of 0 where it was left out, of 2 where it was added twice; a difference of low rank where it is
another adapter's, of full rank where the base is another.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import nn

from workbench.models import plain_model
from workbench.models.head import HEAD_NAMES

# Of the largest number: what float32 leaves when two orders of the same sums are compared.
SAME = 1e-4
# Of the size of the adapter's update: what rounding its sum with the base leaves.
SAME_UPDATE = 1e-3
# A difference of weights that has no more of its size behind the rank of two adapters is made by an adapter.
LOW_RANK = 0.02
# Relative difference of weights that were held in bfloat16, and at 8 or 4 bits, at most.
ROUNDING, ROUNDED = 0.01, 0.2
NAMED = 3


@dataclass(frozen=True)
class LowRankUpdate:
    """What an adapter adds to a weight (out, in): `scale` times `up` (out, rank) times `down` (rank, in).

    Attributes:
        turned: the weight is stored as (in, out).
    """

    up: torch.Tensor
    down: torch.Tensor
    scale: float
    turned: bool

    def whole(self) -> torch.Tensor:
        """The update, in the shape of the weight, in float32."""
        update = self.scale * (self.up.float() @ self.down.float())
        return update.t() if self.turned else update


@dataclass(frozen=True, kw_only=True)
class Source:
    """From what a checkpoint was merged.

    Attributes:
        base: loads the base that was merged into, in float32.
        updates: name of a weight -> what the adapter adds to it; empty where that is no such sum.
    """

    base: Callable[[], nn.Module]
    updates: Mapping[str, LowRankUpdate] = field(default_factory=dict)


def low_rank_updates(model: nn.Module) -> dict[str, LowRankUpdate]:
    """The updates of LoRA in a model of PEFT; empty for what is more than a sum with the base."""
    found = {}
    base: Any = plain_model(model)
    for name, module in base.named_modules():
        if not isinstance(module, LoraLayer) or not module.active_adapters:
            continue
        adapter, ups, downs = module.active_adapters[0], module.lora_B, module.lora_A
        if not isinstance(downs, nn.ModuleDict) or adapter not in downs or module.use_dora.get(adapter):
            return {}
        found[f"{name}.weight"] = LowRankUpdate(
            up=ups[adapter].get_parameter("weight").detach().cpu().clone(),
            down=downs[adapter].get_parameter("weight").detach().cpu().clone(),
            scale=float(module.scaling[adapter]),
            turned=bool(getattr(module, "fan_in_fan_out", False)),
        )
    return found


def diagnosis(
    folder: Path, source: Source | None, found: torch.Tensor | None, trained: torch.Tensor | None
) -> str | None:
    """What kind of fault a checkpoint has, in half a sentence; None where that can't be known.

    Args:
        folder: of the checkpoint.
        source: from what it was merged.
        found, trained: states behind each layer, (layers + 1, tokens, width), of the checkpoint and of the trained
            model.
    """
    known = by_weights(folder, source) if source is not None else None
    return known or by_states(found, trained)


def by_states(found: torch.Tensor | None, trained: torch.Tensor | None) -> str | None:
    """Behind which layer a checkpoint differs first."""
    if found is None or trained is None:
        return None
    if found.shape != trained.shape:
        return f"its states have the shape {tuple(found.shape)}, the trained model's {tuple(trained.shape)}"
    differs = (found - trained).abs().amax(dim=(1, 2)) > SAME * trained.abs().amax(dim=(1, 2))
    if not differs.any():
        return "its layers compute the same, and its output layer does not"
    first = int(differs.nonzero()[0])
    if first == 0:
        return "the embeddings of its tokens differ already"
    return f"it differs from layer {first} of {len(differs) - 1} on"


def by_weights(folder: Path, source: Source) -> str | None:
    """What its weights say; None where they can't be read, or fit."""
    base = {name: weight.cpu() for name, weight in source.base().state_dict().items()}
    if fault := _rounded_weights(folder, base):
        return fault
    if not source.updates:
        return None
    with ExitStack() as opened:
        weights = {
            name: value
            for name, value in weights_of(folder, opened)
            if name in base and _shape(value) == base[name].shape
        }
        frozen = [name for name in weights if name not in source.updates and name.split(".")[0] not in HEAD_NAMES]
        apart = {name: _distance(_tensor(weights[name]), base[name].float()) for name in frozen}
        if other := [name for name, distance in apart.items() if distance > ROUNDING]:
            return f"weights that no adapter touches are not those of the base: {_names(other)}"
        parts = {
            name: _Part.of(_tensor(weights[name]) - base[name].float(), base[name].float(), update)
            for name, update in source.updates.items()
            if name in weights
        }
        ranks = {name: _is_low_rank(_tensor(weights[name]) - base[name].float(), source.updates[name])
                 for name in [name for name, part in parts.items() if not part.right][:NAMED]}  # fmt: skip
    if fault := _fault(parts, all(ranks.values())):
        return fault
    rounded = [name for name, distance in apart.items() if distance > 0]
    return f"weights that no adapter touches are those of the base rounded: {_names(rounded)}" if rounded else None


@dataclass(frozen=True)
class _Part:
    """How a weight differs from its base, beside the update that it should differ by.

    Attributes:
        scale: how often the update is in it.
        rest: what remains besides, relative to the update.
        of_base: what remains, relative to the base's weight.
    """

    scale: float
    rest: float
    of_base: float

    @classmethod
    def of(cls, difference: torch.Tensor, base: torch.Tensor, update: LowRankUpdate) -> "_Part":
        whole = update.whole()
        size = whole.norm().clamp_min(1e-30)
        scale = float((difference * whole).sum() / size**2)
        wrong = difference - whole
        return cls(
            scale=scale,
            rest=float((difference - scale * whole).norm() / size),
            of_base=_distance(base + wrong, base),
        )

    @property
    def right(self) -> bool:
        """It is the base with the update."""
        return abs(self.scale - 1) <= SAME_UPDATE and self.rest <= SAME_UPDATE


def _is_low_rank(difference: torch.Tensor, update: LowRankUpdate) -> bool:
    """Whether what is wrong with a weight is of no higher rank than two adapters have.

    A few random directions beyond that rank catch what is left behind it.
    """
    wrong, rank = difference - update.whole(), 2 * update.up.shape[1]
    size = float(wrong.norm())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(wrong, q=min(rank, *wrong.shape), niter=4)
    rest = float((wrong - u @ torch.diag(s) @ v.t()).norm())
    return rest <= LOW_RANK * size


def _fault(parts: Mapping[str, _Part], low_rank: bool) -> str | None:
    """What kind of fault made weights what they are; None where nothing is wrong with them.

    Args:
        low_rank: what is wrong with some of them has no higher rank than two adapters.
    """
    wrong = {name: part for name, part in parts.items() if not part.right}
    if not wrong:
        return None
    where = "every weight" if len(wrong) == len(parts) else f"{len(wrong)} of {len(parts)} weights ({_names(wrong)})"
    if all(part.rest <= SAME_UPDATE for part in wrong.values()):
        least, most = (choose(part.scale for part in wrong.values()) for choose in (min, max))
        if max(abs(least), abs(most)) <= SAME_UPDATE:
            return f"the adapter was left out of {where}"
        times = f"{most:.2f}" if most - least <= 2 * SAME_UPDATE else f"{least:.2f} to {most:.2f}"
        return f"the adapter is in {where} {times} times"
    if low_rank:
        return f"another adapter than the one that was trained is in {where}"
    share = max(part.of_base for part in wrong.values())
    rounded = ", as of the same weights held at fewer bits" if share <= ROUNDED else ""
    return f"the base in {where} is another by {share:.1%} of its size{rounded}"


def _rounded_weights(folder: Path, base: Mapping[str, torch.Tensor]) -> str | None:
    """Whether float32 weights are what bfloat16 or float16 would leave of them, and the base's are not."""
    left, changed = [torch.bfloat16, torch.float16], False
    with ExitStack() as opened:
        for name, part in weights_of(folder, opened):
            tensor = _tensor(part)
            if name in base and base[name].shape == tensor.shape and torch.equal(base[name].float(), tensor):
                continue
            changed = True
            left = [dtype for dtype in left if torch.equal(tensor.to(dtype).float(), tensor)]
            if not left:
                return None
    return f"its weights were rounded to {str(left[0]).removeprefix('torch.')}" if changed else None


def weights_of(folder: Path, opened: ExitStack) -> Iterator[tuple[str, Any]]:
    """Name of each weight in the folder of a checkpoint, and what is read of it when it is asked for."""
    for path in sorted(folder.glob("*.safetensors")):
        handle = opened.enter_context(safe_open(path, framework="pt"))
        for name in handle.keys():  # noqa: SIM118  it is no mapping
            yield name, handle.get_slice(name)


def _tensor(part: Any) -> torch.Tensor:
    tensor: torch.Tensor = part[:]
    return tensor.float()


def _distance(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found - right).norm() / right.norm().clamp_min(1e-30))


def _shape(part: Any) -> torch.Size:
    return torch.Size(part.get_shape())


def _names(names: Sequence[str] | Mapping[str, Any]) -> str:
    listed = list(names)
    return ", ".join(listed[:NAMED]) + ", ..." * (len(listed) > NAMED)
