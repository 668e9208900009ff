"""Linear layers that read the same input, computed as one product, with LoRA inside."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn

from workbench.models.probe import read_short_text


@dataclass(frozen=True)
class Projection:
    """A frozen linear layer, with the LoRA update beside it if there is one.

    Attributes:
        module: what the model calls.
        base: the frozen layer: `module` itself, or what a LoRA layer wraps.
        down, up: factors of the update, of shapes (r, in) and (out, r).
        scale: of the update.
    """

    module: nn.Module
    base: nn.Linear
    down: nn.Parameter | None = None
    up: nn.Parameter | None = None
    scale: float = 0.0


@dataclass
class Group:
    """Projections of one and the same input.

    Called one after the other, the first computes the outputs of all, and the others hand out theirs. Should one
    of them be called with another tensor, all are computed for that.
    """

    projections: Sequence[Projection]
    source: torch.Tensor | None = None
    version: int = 0
    waiting: dict[int, torch.Tensor] = field(default_factory=dict)
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    scale: torch.Tensor | None = None

    def share_storage(self) -> None:
        """Put the frozen weights one below the other in one matrix, of which each layer keeps its rows."""
        scales = [torch.full((len(p.down),), p.scale) for p in self.projections if p.down is not None]
        if scales:
            self.scale = torch.cat(scales).to(self.projections[0].base.weight.device)  # in float32
        bases = [projection.base for projection in self.projections]
        self.weight, self.bias = bases[0].weight.data, None if bases[0].bias is None else bases[0].bias.data
        if len(bases) == 1:
            return
        self.weight = torch.cat([base.weight.data for base in bases])
        self.bias = None if self.bias is None else torch.cat([base.bias.data for base in bases])
        for base, rows in zip(bases, self.weight.split([base.out_features for base in bases]), strict=True):
            base.weight.data = rows

    def part_storage(self) -> None:
        """Give each layer a matrix of its own again."""
        if len(self.projections) > 1:
            for projection in self.projections:
                projection.base.weight.data = projection.base.weight.data.clone()
        self.weight = self.bias = self.scale = self.source = None
        self.waiting.clear()

    def forwards(self) -> dict[nn.Module, Callable[[torch.Tensor], torch.Tensor]]:
        """What takes the place of each module's `forward`."""
        return {projection.module: partial(self._output, index) for index, projection in enumerate(self.projections)}

    def _output(self, index: int, x: torch.Tensor) -> torch.Tensor:
        if self.source is not x or self.version != x._version or index not in self.waiting:
            self.waiting = dict(enumerate(self._outputs(x)))
            self.source, self.version = x, x._version
        output = self.waiting.pop(index)
        if not self.waiting:
            self.source = None
        return output

    def _outputs(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        updated = [p for p in self.projections if p.down is not None]
        sizes = tuple(p.base.out_features for p in self.projections)
        factors = [p.down for p in updated] + [p.up for p in updated]
        with torch.autocast(x.device.type, enabled=False):  # the function casts what has to be cast
            return _Projections.apply(x, self.weight, self.bias, sizes, self.scale, *factors)


class _Projections(torch.autograd.Function):
    """`x W' + b + scale * x A' B'` for several layers at once, every product accumulated in place, and W frozen.

    PEFT's own layer makes the update as a tensor of its own, scales it and adds it: three passes over an
    activation of full width and as many backwards, for each layer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        sizes: tuple[int, ...],
        scale: torch.Tensor | None,
        *factors: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """x (..., in), weight (sum of sizes, in), scale (sum of r,); no LoRA factors, or all down and then all up."""
        rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        result = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        ctx.sizes, ctx.scale, ctx.shape, ctx.dtype = sizes, scale, x.shape, x.dtype
        if scale is None:
            ctx.save_for_backward(weight)
        else:
            downs, ups = factors[: len(sizes)], factors[len(sizes) :]
            down = (torch.cat(downs) if len(downs) > 1 else downs[0]).to(weight.dtype)
            up = weight.new_zeros(len(weight), len(down)) if len(ups) > 1 else weight.new_empty(ups[0].shape)
            for block, factor in zip(_blocks(up, sizes, [f.shape[1] for f in ups]), ups, strict=True):
                block.copy_(factor)
            low = (rows @ down.t()).mul_(scale)
            result.addmm_(low, up.t())
            ctx.ranks = [factor.shape[1] for factor in ups]
            ctx.save_for_backward(weight, rows, down, up, low)
        return tuple(part.view(*x.shape[:-1], part.shape[1]) for part in result.split(sizes, dim=1))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x and of the factors."""
        weight, *saved = ctx.saved_tensors
        parts = [gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients]
        x_gradient = None
        if ctx.needs_input_grad[0]:
            # One product over all parts would be slower: oneDNN computes long sums at half the speed.
            first, *others = zip(parts, weight.split(ctx.sizes), strict=True)
            x_gradient = first[0] @ first[1]
            for part, rows_of_weight in others:
                x_gradient.addmm_(part, rows_of_weight)
        factors: list[torch.Tensor] = []
        if saved:
            rows, down, up, low = saved
            low_gradient = torch.empty_like(low)
            blocks = _blocks(up, ctx.sizes, ctx.ranks)
            shares = zip(parts, blocks, low_gradient.split(ctx.ranks, 1), low.split(ctx.ranks, 1), strict=True)
            for part, block, share, part_low in shares:
                torch.mm(part, block, out=share)
                factors.append((part.t() @ part_low).float())
            low_gradient.mul_(ctx.scale)
            if x_gradient is not None:
                x_gradient.addmm_(low_gradient, down)
            factors = [*(low_gradient.t() @ rows).float().split(ctx.ranks), *factors]
        if x_gradient is not None:
            x_gradient = x_gradient.view(ctx.shape).to(ctx.dtype)
        return x_gradient, None, None, None, None, *factors


def _blocks(matrix: torch.Tensor, sizes: Sequence[int], ranks: Sequence[int]) -> Iterator[torch.Tensor]:
    """The blocks on the diagonal of `matrix`, one for each up-projection."""
    row = column = 0
    for size, rank in zip(sizes, ranks, strict=True):
        yield matrix[row : row + size, column : column + rank]
        row, column = row + size, column + rank


def grouped_projections(model: nn.Module) -> list[Group]:
    """Frozen linear layers of `model` by the input that they read, as one short text shows.

    None where a model changes their outputs in place (OLMo's `clip_qkv`), which parts of one matrix don't bear.
    """
    if getattr(model.config, "clip_qkv", None) is not None:
        return []
    candidates = dict(_candidates(model))
    readers: dict[int, list[Projection]] = {}
    kept = []  # a tensor that lives on keeps its identity to itself

    def note(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        kept.append(arguments[0])
        readers.setdefault(id(arguments[0]), []).append(candidates[module])

    hooks = [module.register_forward_pre_hook(note) for module in candidates]
    try:
        read_short_text(model)
    finally:
        for hook in hooks:
            hook.remove()
    groups = []
    for readings in readers.values():
        for part in _alike(readings):
            if len(part) > 1 or part[0].down is not None:
                groups.append(Group(part))
    return groups


def _alike(projections: Sequence[Projection]) -> list[list[Projection]]:
    """Those of `projections` that fit into one matrix together."""
    parts: dict[tuple[Any, ...], list[Projection]] = {}
    for projection in projections:
        base = projection.base
        key = (base.weight.dtype, base.weight.device, base.bias is None, projection.down is None)
        parts.setdefault(key, []).append(projection)
    return list(parts.values())


def _candidates(model: nn.Module) -> Iterator[tuple[nn.Module, Projection]]:
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module in inside:
            continue
        if isinstance(module, LoraLinear):
            inside.update(module.modules())
            projection = _lora(module)
            if projection is not None:
                yield module, projection
        elif type(module) is nn.Linear and not any(p.requires_grad for p in module.parameters()):
            yield module, Projection(module, module)


def _lora(module: LoraLinear) -> Projection | None:
    """A plain LoRA layer: one adapter, no dropout, no variant such as DoRA, on a float weight that is frozen."""
    if type(module) is not LoraLinear or module.merged or module.disable_adapters:
        return None
    base, names = module.base_layer, module.active_adapters
    plain = (
        type(base) is nn.Linear
        and not any(p.requires_grad for p in base.parameters())
        and len(names) == 1
        and names[0] in module.lora_A
        and names[0] not in module.lora_variant
        and isinstance(module.lora_dropout[names[0]], nn.Identity)
        and module.lora_B[names[0]].bias is None
    )
    if not plain:
        return None
    down, up = module.lora_A[names[0]].weight, module.lora_B[names[0]].weight
    assert isinstance(base, nn.Linear) and isinstance(down, nn.Parameter) and isinstance(up, nn.Parameter)
    return Projection(module, base, down, up, module.scaling[names[0]])
