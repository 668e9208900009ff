"""Compiled loops: each formula against PyTorch's in float32, with its gradients."""

import platform
from collections.abc import Callable

import pytest
import torch

from workbench.models import linear_cross_entropy
from workbench.models.attention import ROWS_TOGETHER, grouped_attention
from workbench.models.fast.compiled import can_compile
from workbench.models.fast.gated import _Swish
from workbench.models.fast.norms import _RootMeanSquareNorm
from workbench.models.fast.rotary import _half_turned, _Rotate

# Everywhere else the loops are a matter of luck; here a new PyTorch that hides its threads has to be noticed.
EXPECTED = platform.system() == "Linux" and platform.machine() == "x86_64"
pytestmark = pytest.mark.skipif(
    not EXPECTED and not can_compile(), reason="PyTorch's threads can't be reached on this platform"
)
LOWEST = torch.finfo(torch.bfloat16).min
Formula = Callable[..., torch.Tensor]
both_precisions = pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])


def normal(*shape: int, scale: float = 1.0, precision: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return (torch.randn(shape) * scale).to(precision)


def gradients(formula: Formula, inputs: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """The result and the gradients of the inputs, for a random gradient of the result."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    result = formula(*leaves)
    gradient = torch.randn(result.shape, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
    return [result.detach(), *torch.autograd.grad(result, leaves, gradient.to(result.dtype))]


def require_same(ours: Formula, formula: Formula, *inputs: torch.Tensor) -> None:
    """Ours gives the formula in float64, in bfloat16 rounded once or, between products, twice."""
    got = gradients(ours, list(inputs), 1)
    expected = gradients(formula, [x.double() for x in inputs], 1)
    tolerance = 2e-2 if inputs[0].dtype == torch.bfloat16 else 2e-6
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == inputs[0].dtype
        assert torch.allclose(one.double(), other, rtol=tolerance, atol=tolerance * float(other.abs().max()))
        # On the whole far closer than that: a wrong term would be seen even where the tolerance hides it.
        assert float((one.double() - other).norm() / other.norm()) < tolerance / 4


def test_they_are_used() -> None:
    assert can_compile(normal(2))
    assert can_compile(torch.ones(2))
    assert not can_compile(normal(2), torch.ones(2))
    assert not can_compile(torch.ones(2, dtype=torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_compile(torch.ones(2))


@both_precisions
@pytest.mark.parametrize("shape", [(1, 1, 32), (3, 7, 576), (2, 5, 4, 33)])
def test_rms_norm(shape: tuple[int, ...], precision: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.rand(shape[-1]) + 0.5

    def formula(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight

    require_same(lambda x: _RootMeanSquareNorm.apply(x, weight, 1e-5), formula, normal(*shape, precision=precision))
    spread = normal(shape[-1], *shape[:-1], precision=precision).movedim(0, -1)  # columns that lie apart
    require_same(lambda x: _RootMeanSquareNorm.apply(x, weight, 1e-5), formula, spread)


@both_precisions
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_gated_product(scale: float, precision: torch.dtype) -> None:
    torch.manual_seed(0)

    def formula(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(gate) * up

    inputs = normal(2, 9, 96, scale=scale, precision=precision), normal(2, 9, 96, precision=precision)
    require_same(_Swish.apply, formula, *inputs)
    both = normal(18, 160, scale=scale, precision=precision)
    parts = both.split(80, dim=1)  # of one matrix, as a product makes them
    for one, other in zip(
        gradients(_Swish.apply, list(parts), 2), gradients(_Swish.apply, [p.clone() for p in parts], 2), strict=True
    ):
        assert torch.equal(one, other)


@both_precisions
@pytest.mark.parametrize("batch", [1, 3])
def test_rotation(batch: int, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    angles = torch.randn(batch, 11, 8).repeat(1, 1, 2)
    cos, sin = angles.cos().to(precision), angles.sin().to(precision)

    def formula(x: torch.Tensor) -> torch.Tensor:
        return x * cos.float()[:, None] + _half_turned(x) * sin.float()[:, None]

    require_same(
        lambda x: _Rotate.apply(x, cos, sin), formula, normal(3, 11, 4, 16, precision=precision).transpose(1, 2)
    )


@both_precisions
@pytest.mark.parametrize("virtual", [0, 6])
def test_attention(virtual: int, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Identity().train()
    mask = torch.full((9, 9 + virtual), LOWEST).triu(1 + virtual).repeat(3, 1, 1, 1)
    mask[1, :, :, virtual : virtual + 4] = LOWEST
    mask = mask.to(precision)

    def formula(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        repeated = key.repeat_interleave(3, 1), value.repeat_interleave(3, 1)
        weights = torch.softmax(query @ repeated[0].transpose(2, 3) * 0.25 + mask, dim=-1)
        return (weights @ repeated[1]).transpose(1, 2)

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return grouped_attention(layer, query, key, value, mask.to(query.dtype), 0.25)[0]

    query = normal(3, 6, 9, 16, precision=precision)
    key, value = (normal(3, 2, 9 + virtual, 16, precision=precision) for _ in range(2))
    require_same(attention, formula, query, key, value)
    # What is masked counts for nothing at all, however large.
    changed, seen = value.clone(), slice(4, 9)
    changed[1, :, virtual : virtual + 4] = 1e30
    assert torch.equal(attention(query, key, value)[1, seen], attention(query, key, changed)[1, seen])


@both_precisions
@torch.no_grad()
def test_attention_of_a_new_token_leaves_out_padding(precision: torch.dtype) -> None:
    torch.manual_seed(0)
    rows, columns, virtual = 2 * ROWS_TOGETHER + 6, 20, 3
    query, room = normal(rows, 6, 1, 16, precision=precision), normal(2, rows, 2, 30, 16, precision=precision)
    key, value = room[:, :, :, :columns]
    mask = torch.zeros(rows, 1, 1, columns, dtype=precision)
    for row in range(rows):
        mask[row, ..., : row * columns // rows] = torch.finfo(precision).min
    mask[-1, ..., :virtual] = 0  # what is seen in front of padding counts
    layer, repeated = torch.nn.Identity(), [x.float().repeat_interleave(3, 1) for x in (key, value)]
    weights = torch.softmax(query.float() @ repeated[0].transpose(2, 3) * 0.25 + mask.float(), dim=-1)
    expected = (weights @ repeated[1]).transpose(1, 2)
    got = grouped_attention(layer, query, key, value, mask, 0.25)[0]
    assert torch.allclose(got.float(), expected, atol=1e-6 if precision == torch.float32 else 2e-2)
    # Columns in front of all rows of a part aren't even read.
    value[ROWS_TOGETHER : 2 * ROWS_TOGETHER, :, : ROWS_TOGETHER * columns // rows] = torch.nan
    assert torch.equal(got, grouped_attention(layer, query, key, value, mask, 0.25)[0])


def test_attention_takes_a_whole_number_as_scaling() -> None:
    torch.manual_seed(0)
    layer, mask = torch.nn.Identity().train(), torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16)
    inputs = normal(2, 4, 4, 8), normal(2, 2, 4, 8), normal(2, 2, 4, 8)
    one = grouped_attention(layer, *inputs, mask, 1)[0]
    assert torch.equal(one, grouped_attention(layer, *inputs, mask, 1.0)[0])
    assert not torch.allclose(one, grouped_attention(layer, *inputs, mask, 1e-9)[0], atol=0.1)


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_with_masks_of_other_kinds(heads: int) -> None:
    """One for each head, or trained: not for the loop, but computed all the same."""
    torch.manual_seed(0)
    layer = torch.nn.Identity().train()
    query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    mask = torch.randn(2, heads, 5, 5)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), mask, scale=0.3
    ).transpose(1, 2)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 5e-2)):
        trained = mask.detach().clone().to(dtype).requires_grad_()
        inputs = (x.to(dtype) for x in (query, key, value))
        got = grouped_attention(layer, *inputs, trained, 0.3)[0]
        assert torch.allclose(got.float(), expected, atol=tolerance)
        got.sum().backward()
        assert trained.grad is not None


def test_attention_with_sinks_is_refused() -> None:
    x = torch.randn(1, 2, 3, 8)
    with pytest.raises(NotImplementedError, match="s_aux"):
        grouped_attention(torch.nn.Identity(), x, x[:, :1], x[:, :1], None, 0.3, s_aux=torch.ones(2))


def test_what_is_no_number_is_not_hidden() -> None:
    gate, up = normal(4, 32), normal(4, 32)
    gate[1, 3] = float("nan")
    assert _Swish.apply(gate, up).isnan().nonzero().tolist() == [[1, 3]]
    assert _RootMeanSquareNorm.apply(gate, torch.ones(32), 1e-5)[1].isnan().all()
    layer, mask = torch.nn.Identity().train(), torch.zeros(1, 1, 4, 4, dtype=torch.bfloat16)
    query, key, value = normal(1, 2, 4, 8), normal(1, 1, 4, 8), normal(1, 1, 4, 8)
    query[0, 1, 2, 0] = float("nan")
    result = grouped_attention(layer, query, key, value, mask, 1.0)[0]
    assert result[0, 2, 1].isnan().all()
    assert not result[0, 2, 0].isnan().any()
    hidden, weight = normal(3, 8), normal(50, 8)
    hidden[2, 0] = float("nan")
    assert linear_cross_entropy(hidden, weight, torch.tensor([1, 2, 3])).isnan().tolist() == [False, False, True]


def test_exponentials_far_out() -> None:
    gate = torch.tensor([[-1e30, -200.0, -88.0, 0.0, 88.0, 1e30]], dtype=torch.bfloat16)
    got = _Swish.apply(gate, torch.ones_like(gate)).float()
    assert torch.allclose(got, torch.nn.functional.silu(gate.float()), rtol=1e-2, atol=1e-8)
    logits = torch.diag(torch.tensor([3e4, 1.0, -3e4])).to(torch.bfloat16)
    losses = linear_cross_entropy(torch.eye(3, dtype=torch.bfloat16), logits, torch.tensor([0, 1, 2]))
    expected = torch.nn.functional.cross_entropy(logits.t().float(), torch.arange(3), reduction="none")
    assert torch.allclose(losses, expected, rtol=1e-5)


def test_a_word_that_is_none_is_an_error() -> None:
    with pytest.raises(IndexError, match="targets from 2 to 50 for 50 words"):
        linear_cross_entropy(normal(2, 8), normal(50, 8), torch.tensor([50, 2]))
