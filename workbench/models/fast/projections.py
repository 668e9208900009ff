"""Linear layers that read the same input, computed as one product, with LoRA inside."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeGuard

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from workbench.models.fast.frozen import DenseWeights, Layer, PackedWeights, inputs, is_packed, outputs
from workbench.models.fast.integer import IntegerProjections, IntegerWeights, is_for_integers
from workbench.models.probe import read_short_text

# The matrix units of a CPU take 32 numbers at once: a width of 608 costs less than one of 592.
MULTIPLE = 32
LINEAR_LAYERS = (nn.Linear, Conv1D)
# PEFT's LoRA on a linear layer: of floating point, of int8, of NF4.
LORA_LAYERS = ("Linear", "Linear8bitLt", "Linear4bit")


@dataclass(frozen=True)
class Projection:
    """A frozen linear layer, with the LoRA update beside it if there is one.

    Attributes:
        module: what the model calls.
        base: the frozen layer: `module` itself, or what a LoRA layer wraps.
        down, up: factors of the update, of shapes (r, in) and (out, r).
        scale: of the update.
        alone: what stands on the layer may change its output in place, which parts of one product don't bear.
    """

    module: nn.Module
    base: Layer
    down: nn.Parameter | None = None
    up: nn.Parameter | None = None
    scale: float = 0.0
    alone: bool = False


@dataclass
class Group:
    """Projections of one and the same input.

    Called one after the other, the first computes the outputs of all, and the others hand out theirs. Should one
    of them be called with another tensor, all are computed for that.

    Attributes:
        sample: what they read of a short text.
        frozen: the frozen weights one below the other, (sum of out, in). With LoRA there are more columns to the
            right, (sum of out, in + sum of r + padding): the up-projections, each in the rows of its layer. Weights at
            8 bits as they lie, where integers are multiplied fast.
        down: with LoRA, the down-projections one below the other in the weight's precision, (sum of r, in).
        scale: with LoRA, of each row of `down`.
    """

    projections: Sequence[Projection]
    sample: torch.Tensor
    source: torch.Tensor | None = None
    version: int = 0
    waiting: dict[int, torch.Tensor] = field(default_factory=dict)
    frozen: DenseWeights | PackedWeights | IntegerWeights | None = None
    bias: torch.Tensor | None = None
    down: torch.Tensor | None = None
    scale: torch.Tensor | None = None

    def share_storage(self, shared: dict[Any, torch.Tensor]) -> None:
        """Make one matrix of the frozen weights.

        Args:
            shared: matrices for weights at 8 or 4 bits, see `Made`.
        """
        bases = [projection.base for projection in self.projections]
        first, width = bases[0], inputs(bases[0])
        if is_packed(first) and is_for_integers(first):
            self.frozen = IntegerWeights(bases, self.sample)
            return
        scales = [torch.full((len(p.down),), p.scale) for p in self.projections if p.down is not None]
        room = 0
        if scales:
            self.scale = torch.cat(scales).to(first.weight.device)  # in float32
            room = len(self.scale)
            room += -(width + room) % MULTIPLE
        if is_packed(first):
            self.frozen = PackedWeights(bases, room, shared, [len(scale) for scale in scales])
        else:
            self.frozen = DenseWeights(bases, room)
        biases = [base.bias.data for base in bases if base.bias is not None]
        self.bias = torch.cat(biases).to(self.frozen.dtype) if biases else None
        if self.scale is not None:
            self.down = torch.empty(len(self.scale), width, dtype=self.frozen.dtype, device=first.weight.device)

    def part_storage(self) -> None:
        """Give each layer a matrix of its own again."""
        if isinstance(self.frozen, DenseWeights | PackedWeights):
            self.frozen.release()
        self.frozen = self.bias = self.down = self.scale = self.source = None
        self.waiting.clear()

    def forwards(self) -> dict[nn.Module, Callable[[torch.Tensor], torch.Tensor]]:
        """What takes the place of each module's `forward`."""
        return {projection.module: partial(self._output, index) for index, projection in enumerate(self.projections)}

    def _output(self, index: int, x: torch.Tensor) -> torch.Tensor:
        projection = self.projections[index]
        assert self.frozen is not None
        packed = not isinstance(self.frozen, DenseWeights)
        rounded = projection.down if projection.down is not None else x if packed else None
        if rounded is not None and not _may_round(rounded, self.frozen.dtype, x):
            return type(projection.module).forward(projection.module, x)
        if self.source is not x or self.version != x._version or index not in self.waiting:
            self.waiting = dict(enumerate(self._outputs(x)))
            self.source, self.version = x, x._version
        output = self.waiting.pop(index)
        if not self.waiting:
            self.source = None
        return output

    def _outputs(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes = tuple(outputs(p.base) for p in self.projections)
        with torch.autocast(x.device.type, enabled=False):  # the functions cast what has to be cast
            if isinstance(self.frozen, IntegerWeights):
                return self._in_integers(x, self.frozen)
            if self.scale is None:
                return _Projections.apply(x, self.frozen, self.bias, sizes)
            downs, ups = self._factors()
            return _LoraProjections.apply(x, self.frozen, self.bias, self.down, self.scale, sizes, *downs, *ups)

    def _in_integers(self, x: torch.Tensor, weights: IntegerWeights) -> tuple[torch.Tensor, ...]:
        biases = [None if p.base.bias is None else p.base.bias.float() for p in self.projections]
        downs, ups = self._factors()
        return IntegerProjections.apply(x, weights, biases, [p.scale for p in self.projections if downs], *downs, *ups)

    def _factors(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The down-projections and the up-projections; empty without LoRA."""
        adapted = [(p.down, p.up) for p in self.projections if p.down is not None and p.up is not None]
        return [down for down, _ in adapted], [up for _, up in adapted]


class _Projections(torch.autograd.Function):
    """`x W' + b` for several layers at once, W and b frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        frozen: DenseWeights | PackedWeights,
        bias: torch.Tensor | None,
        sizes: tuple[int, ...],
    ) -> tuple[torch.Tensor, ...]:
        """x (..., in), weight (sum of sizes, in) -> a tensor (..., size) for each size."""
        ctx.frozen, ctx.sizes, ctx.dtype = frozen, sizes, x.dtype
        weight = frozen.matrix()
        return _parts(_product(_matrix(x).to(weight.dtype), weight, bias), x.shape, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradient of x."""
        weight = ctx.frozen.matrix()
        gradient = _product_of_parts([_matrix(part) for part in gradients], weight.split(ctx.sizes))
        return gradient.view(*gradients[0].shape[:-1], weight.shape[1]).to(ctx.dtype), None, None, None


class _LoraProjections(torch.autograd.Function):
    """`x W' + b + scale * x A' B'` for several layers at once, W and b frozen.

    PEFT's own layer makes the update as a tensor of its own, scales it and adds it: three passes over an
    activation of full width and as many backwards, for each layer. Here `scale * x A'` stands to the right of x and
    B to the right of W, and one product makes the sum; backwards, one product gives the gradients of both.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        frozen: DenseWeights | PackedWeights,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        scale: torch.Tensor,
        sizes: tuple[int, ...],
        *factors: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """x (..., in); `frozen`, `down` and `scale` as in `Group`; factors: all A, (r, in), then all B, (size, r)."""
        downs, ups = factors[: len(sizes)], factors[len(sizes) :]
        rows, width, ranks = _matrix(x), x.shape[-1], [len(factor) for factor in downs]
        low_columns = slice(width, width + len(down))
        for part, factor in zip(down.split(ranks), downs, strict=True):
            part.copy_(factor)
        weight = _with_factors(frozen, ups, sizes, ranks, low_columns)
        wide = weight.new_empty(len(rows), weight.shape[1])
        wide[:, :width] = rows
        wide[:, low_columns] = (wide[:, :width] @ down.t()).mul_(scale)
        wide[:, low_columns.stop :] = 0
        ctx.save_for_backward(wide, scale, *factors)  # the factors for their version: they are in weight and down
        ctx.frozen, ctx.down, ctx.sizes, ctx.ranks, ctx.dtype = frozen, down, sizes, ranks, x.dtype
        return _parts(_product(wide, weight, bias), x.shape, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x and of the factors."""
        wide, scale, *factors = ctx.saved_tensors
        width, low_columns = ctx.down.shape[1], slice(ctx.down.shape[1], ctx.down.shape[1] + len(scale))
        parts = [_matrix(gradient) for gradient in gradients]
        if ctx.frozen.stays:
            weight = ctx.frozen.matrix()
        else:  # another group may have written there since
            weight = _with_factors(ctx.frozen, factors[len(ctx.sizes) :], ctx.sizes, ctx.ranks, low_columns)
        weights = (weight if ctx.needs_input_grad[0] else weight[:, low_columns]).split(ctx.sizes)
        wide_gradient = _product_of_parts(parts, weights)
        low_gradient = wide_gradient[:, low_columns] if ctx.needs_input_grad[0] else wide_gradient
        low_gradient = (low_gradient * scale).to(wide.dtype)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = torch.addmm(wide_gradient[:, :width], low_gradient, ctx.down)
            x_gradient = x_gradient.view(*gradients[0].shape[:-1], width).to(ctx.dtype)
        downs = (low_gradient.t() @ wide[:, :width]).float().split(ctx.ranks)
        lows = wide[:, low_columns].split(ctx.ranks, dim=1)
        ups = [(part.t() @ low).float() for part, low in zip(parts, lows, strict=True)]
        return x_gradient, None, None, None, None, None, *downs, *ups


def _may_round(factor: torch.Tensor, precision: torch.dtype, x: torch.Tensor) -> bool:
    """Whether a LoRA factor, or x itself, may be rounded to `precision`: without autocast it is computed in its own."""
    return factor.dtype == precision or torch.is_autocast_enabled(x.device.type)


def _matrix(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


def _product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())


def _parts(product: torch.Tensor, shape: torch.Size, sizes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(part.view(*shape[:-1], part.shape[1]) for part in product.split(sizes, dim=1))


def _product_of_parts(parts: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of `part @ weight`. One product over all would be slower: oneDNN computes long sums at half the speed."""
    result = parts[0] @ weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        result.addmm_(part, weight)
    return result


def _with_factors(
    frozen: DenseWeights | PackedWeights,
    ups: Sequence[torch.Tensor],
    sizes: Sequence[int],
    ranks: Sequence[int],
    columns: slice,
) -> torch.Tensor:
    """The frozen weights with the up-projections to their right."""
    weight = frozen.matrix()
    for part, factor in zip(_blocks(weight[:, columns], sizes, ranks), ups, strict=True):
        part.copy_(factor)
    return weight


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
    kept = {}  # a tensor that lives on keeps its identity to itself

    def note(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        kept[id(arguments[0])] = arguments[0]
        readers.setdefault(id(arguments[0]), []).append(candidates[module])

    hooks = [module.register_forward_pre_hook(note) for module in candidates]
    try:
        read_short_text(model)
    finally:
        for hook in hooks:
            hook.remove()
    groups = []
    for source, readings in readers.items():
        for part in _alike(readings):
            if len(part) > 1 or part[0].down is not None or is_packed(part[0].base):
                groups.append(Group(part, kept[source]))
    return groups


def _alike(projections: Sequence[Projection]) -> list[list[Projection]]:
    """Those of `projections` that fit into one matrix together."""
    parts: dict[tuple[Any, ...], list[Projection]] = {}
    for projection in projections:
        base = projection.base
        alone = id(base) if projection.alone else None
        key = (base.weight.dtype, base.weight.device, base.bias is None, projection.down is None, alone)
        parts.setdefault(key, []).append(projection)
    return list(parts.values())


def _candidates(model: nn.Module) -> Iterator[tuple[nn.Module, Projection]]:
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module in inside:
            continue
        if isinstance(module, BaseTunerLayer) and isinstance(module.get_base_layer(), Layer):
            inside.update(module.modules())
            projection, base = _lora(module), module.get_base_layer()
            if projection is not None:
                yield module, projection
            elif isinstance(base, Layer) and is_packed(base):
                yield base, Projection(base, base, alone=True)
        elif _is_frozen_linear(module):
            yield module, Projection(module, module)


def _is_frozen_linear(module: nn.Module) -> TypeGuard[Layer]:
    linear = isinstance(module, Layer) and (type(module) in LINEAR_LAYERS or is_packed(module))
    return linear and not any(p.requires_grad for p in module.parameters())


def _lora(module: nn.Module) -> Projection | None:
    """A LoRA layer of one kind: one adapter, no dropout, no variant such as DoRA, on a weight that is frozen."""
    if (
        type(module).__name__ not in LORA_LAYERS
        or not isinstance(module, LoraLayer)
        or module.merged
        or module.disable_adapters
    ):
        return None
    base, names = module.base_layer, module.active_adapters
    supported = (
        (type(base) in LINEAR_LAYERS or is_packed(base))
        and not any(p.requires_grad for p in base.parameters())
        and len(names) == 1
        and names[0] in module.lora_A
        and names[0] not in module.lora_variant
        and isinstance(module.lora_dropout[names[0]], nn.Identity)
        and module.lora_B[names[0]].bias is None
    )
    if not supported:
        return None
    down, up = module.lora_A[names[0]].weight, module.lora_B[names[0]].weight
    assert isinstance(base, Layer) and isinstance(down, nn.Parameter) and isinstance(up, nn.Parameter)
    return Projection(module, base, down, up, module.scaling[names[0]])
