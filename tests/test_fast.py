"""The fast paths: the same numbers, and nothing left behind."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_blockwise
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Gemma2Config, GptOssConfig
from transformers.models.llama import modeling_llama

from tiny import make_model
from workbench.methods import find_method
from workbench.methods.peft_layers.precision import dequantized
from workbench.models import attach, fast_evaluation, fast_training, has_linear_output, linear_cross_entropy, load_model
from workbench.models import load as load_module
from workbench.models import output as output_module
from workbench.models.attention import GROUPED, shares_heads
from workbench.models.fast import integer
from workbench.models.fast.activations import fast_gelu
from workbench.models.fast.compiled import can_compile
from workbench.models.fast.frozen import PackedWeights, is_packed
from workbench.models.fast.integer import CODE_RANGES, IntegerProjections, IntegerWeights, code_range

compiled_here = pytest.mark.skipif(not can_compile(), reason="PyTorch's threads can't be reached here")
IDS = torch.arange(3, 63).view(2, 30)
MASK = torch.ones_like(IDS)
MASK[1, :7] = 0


def step(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def without_dropout(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def lora(model: Any, **settings: Any) -> Any:
    settings = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False, **settings}
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))


def by_name(name: str) -> Callable[[Any], Any]:
    def attached(model: Any) -> Any:
        settings = {"num_virtual_tokens": 4} if name == "prefix" else {}
        model = attach(model, find_method(name), settings, list(range(3, 30)), 0)
        with torch.no_grad():  # adapters start as nothing, or with equal halves
            for parameter in model.parameters():
                if parameter.requires_grad and name != "full":
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        return model

    return attached


ATTACHED = {"lora": lora, **{name: by_name(name) for name in ("houlsby", "prefix", "full")}}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("name", ATTACHED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradients_are_the_same(kind: str, name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = ATTACHED[name](make_model(kind)).to(dtype).train()
    without_dropout(model)
    loss, gradient = step(model)
    with fast_training(model):
        fast_loss, fast_gradient = step(model)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert torch.allclose(loss, fast_loss, rtol=tolerance)
    assert torch.nn.functional.cosine_similarity(gradient.float(), fast_gradient.float(), dim=0) > 1 - tolerance
    assert torch.allclose(gradient, fast_gradient, atol=2 * tolerance * float(gradient.abs().max()))


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3", "gpt2", "gpt-j"])
@pytest.mark.parametrize("name", ["lora", "houlsby", "parallel"])
def test_an_evaluation_gives_the_same(kind: str, name: str) -> None:
    torch.manual_seed(0)
    model = by_name(name)(make_model(kind)).eval()
    forwards = {module: vars(module).get("forward") for module in model.modules()}
    with torch.inference_mode():
        expected = model(IDS, attention_mask=MASK).logits[MASK.bool()]
        with fast_evaluation(model):
            changed = [module for module in model.modules() if vars(module).get("forward") is not forwards[module]]
            got = model(IDS, attention_mask=MASK).logits[MASK.bool()]
    assert changed or kind == "gpt-j" or not can_compile()
    assert torch.allclose(got, expected, atol=2e-6 * float(expected.abs().max()))
    assert all(vars(module).get("forward") is forwards[module] for module in model.modules())


@pytest.mark.parametrize("kind", [GptOssConfig, Gemma2Config])
def test_attention_with_sinks_or_capped_scores_stays_the_models_own(kind: Any, tmp_path: Any) -> None:
    torch.manual_seed(0)
    config = kind(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, vocab_size=100, num_local_experts=2, num_experts_per_tok=1, max_position_embeddings=64,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    for training in (True, False):
        model = load_model(tmp_path, 32, training=training)
        assert model.config._attn_implementation == "eager"


def test_scales_and_ranks_that_differ() -> None:
    model = lora(make_model("llama"), r=3, lora_alpha=4, rank_pattern={"k_proj": 6}, alpha_pattern={"k_proj": 5})
    loss, gradient = step(model)
    with fast_training(model):
        fast_loss, fast_gradient = step(model)
    assert torch.allclose(loss, fast_loss, rtol=1e-5)
    assert torch.allclose(gradient, fast_gradient, atol=1e-5 * float(gradient.abs().max()))


@compiled_here
def test_a_llama_with_lora_takes_all_paths() -> None:
    rotate = modeling_llama.apply_rotary_pos_emb
    with fast_training(lora(make_model("llama").to(torch.bfloat16))) as taken:
        # Seven projections, two norms and a gated block in each of two layers, and the last norm.
        assert taken == 2 * (7 + 2 + 1) + 1
        assert modeling_llama.apply_rotary_pos_emb is not rotate


def test_nothing_of_it_stays(tmp_path: Any) -> None:
    model = lora(make_model("llama"))
    rotate = modeling_llama.apply_rotary_pos_emb
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with fast_training(model):
        assert any("forward" in vars(module) for module in model.modules())
        step(model)
    assert not any("forward" in vars(module) for module in model.modules())
    assert modeling_llama.apply_rotary_pos_emb is rotate
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    model.unload().save_pretrained(tmp_path)
    assert torch.equal(
        load_file(tmp_path / "model.safetensors")["model.layers.0.self_attn.k_proj.weight"],
        before["base_model.model.model.layers.0.self_attn.k_proj.base_layer.weight"],
    )


@pytest.mark.parametrize("setting", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_what_it_does_not_compute_it_leaves_alone(setting: dict[str, Any]) -> None:
    model = lora(make_model("llama"), target_modules=["q_proj"], **setting)
    adapted = model.base_model.model.model.layers[0].self_attn.q_proj
    with fast_training(model):
        assert "forward" not in vars(adapted)
        assert "forward" not in vars(adapted.base_layer)


def test_layers_that_read_the_same_input_may_be_called_in_any_order() -> None:
    model = lora(make_model("llama"))
    attention = model.base_model.model.model.layers[0].self_attn
    one, other = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    expected = [attention.q_proj(one), attention.k_proj(other), attention.v_proj(one), attention.q_proj(one)]
    with fast_training(model):
        got = [attention.q_proj(one), attention.k_proj(other), attention.v_proj(one), attention.q_proj(one)]
    for theirs, ours in zip(expected, got, strict=True):
        assert torch.allclose(theirs, ours, atol=1e-5)


@compiled_here
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("factor", [0.25, 200.0])
def test_a_norm_is_taken_for_its_own_formula(kind: str, factor: float) -> None:
    model = make_model(kind).to(torch.bfloat16)  # Gemma multiplies by 1 + weight, as large as 100 in its checkpoints
    norm = model.model.layers[0].input_layernorm
    norm.weight.data.fill_(factor)
    x = torch.randn(3, 5, 32).to(torch.bfloat16)
    with fast_training(model):
        assert "forward" in vars(norm)
        got = norm(x)
    expected = type(norm)(32, 1e-6).float()  # one rounding to bfloat16, at the end
    expected.weight.data.fill_(factor)
    assert torch.equal(got, expected(x.float()).to(torch.bfloat16))


def test_an_error_inside_leaves_nothing_either() -> None:
    model = lora(make_model("llama").to(torch.bfloat16))
    rotate = modeling_llama.apply_rotary_pos_emb
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), fast_training(model):
        step(model)
        raise ZeroDivisionError
    assert not any("forward" in vars(module) for module in model.modules())
    assert modeling_llama.apply_rotary_pos_emb is rotate
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.is_contiguous()


def test_float32_factors_are_not_rounded_without_autocast() -> None:
    model = lora(make_model("llama").to(torch.bfloat16))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    for factor in (layer.lora_A["default"], layer.lora_B["default"]):
        factor.weight.data = factor.weight.data.float() * 1.001
    x = torch.randn(2, 5, 32).to(torch.bfloat16)
    expected = layer(x)
    with fast_training(model):
        got = layer(x)
    assert type(got.grad_fn) is type(expected.grad_fn)  # PEFT's own way
    assert torch.allclose(got, expected, rtol=1e-2, atol=1e-2)


@compiled_here
@pytest.mark.parametrize("addition", ["limit", "dropout"])
def test_a_gate_of_another_formula_is_left_alone(addition: str) -> None:
    model = make_model("llama").to(torch.bfloat16)
    block = model.model.layers[0].mlp

    class Other(type(block)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate = self.gate_proj(x)
            gate = gate.clamp(max=10.0) if addition == "limit" else gate
            y = self.down_proj(torch.nn.functional.silu(gate) * self.up_proj(x))
            return torch.nn.functional.dropout(y, 0.5, self.training) if addition == "dropout" else y

    block.__class__ = Other
    with fast_training(model):
        assert "forward" not in vars(block)
        assert "forward" in vars(model.model.layers[1].mlp)


def test_rotations_that_are_called_otherwise_are_left_to_the_original() -> None:
    model = make_model("llama").to(torch.bfloat16)
    q, k = torch.randn(1, 4, 3, 8).to(torch.bfloat16), torch.randn(1, 2, 3, 8).to(torch.bfloat16)
    angles = torch.randn(1, 3, 4).repeat(1, 1, 2)
    cos, sin = angles.cos().to(torch.bfloat16), angles.sin().to(torch.bfloat16)
    expected = modeling_llama.apply_rotary_pos_emb(q, k, cos, sin)
    with fast_training(model):
        named = modeling_llama.apply_rotary_pos_emb(q, k=k, cos=cos, sin=sin)
        fast = modeling_llama.apply_rotary_pos_emb(q, k, cos, sin)
    for one, other, third in zip(expected, named, fast, strict=True):
        assert torch.equal(one, other)
        assert torch.allclose(one, third, atol=2e-2)


def test_a_norm_of_another_formula_is_left_alone() -> None:
    model = make_model("llama").to(torch.bfloat16)
    norm = model.model.layers[0].input_layernorm
    norm.forward = lambda x: x  # type: ignore[method-assign]
    other = type("CentredRMSNorm", (type(norm),), {"forward": lambda self, x: self.weight * (x - x.mean())})
    model.model.norm.__class__ = other
    with fast_training(model):
        assert norm.forward(1) == 1
        assert "forward" not in vars(model.model.norm)


@pytest.mark.parametrize("positions", [1, 31, 64, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_without_logits_is_the_loss(positions: int, dtype: torch.dtype, monkeypatch: Any) -> None:
    monkeypatch.setattr(output_module, "ROWS", 16)
    monkeypatch.setitem(output_module.PART_BYTES, "cpu", 500 * 70 * dtype.itemsize)  # 64 positions at once
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, 16, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(500, 16, generator=generator).to(dtype)
    targets = torch.randint(0, 500, (positions,), generator=generator)
    weights = torch.rand(positions, generator=generator)
    expected = torch.nn.functional.cross_entropy((hidden @ weight.t()).float(), targets, reduction="none")
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), hidden)
    got = linear_cross_entropy(hidden, weight, targets)
    (gradient,) = torch.autograd.grad((got * weights).sum(), hidden)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert torch.allclose(got, expected, rtol=tolerance)
    assert torch.allclose(gradient, expected_gradient, atol=tolerance * float(expected_gradient.abs().max()))
    with torch.no_grad():
        assert torch.equal(linear_cross_entropy(hidden, weight, targets), got)


def test_logits_that_are_capped_or_trained_are_seen() -> None:
    assert has_linear_output(make_model("llama"))
    assert has_linear_output(lora(make_model("gpt2"), target_modules=["c_attn"]))
    capped = make_model("gemma3")
    assert has_linear_output(capped)
    capped.config.final_logit_softcapping = 5.0
    assert not has_linear_output(capped)
    assert not has_linear_output(make_model("llama").requires_grad_(True))


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_grouped_attention_equals_the_fused_one(kind: str) -> None:
    model = make_model(kind)
    assert shares_heads(model.config)
    with torch.inference_mode():
        model.set_attn_implementation("sdpa")
        expected = model(IDS, attention_mask=MASK).logits[MASK.bool()]
        model.set_attn_implementation(GROUPED)
        got = model(IDS, attention_mask=MASK).logits[MASK.bool()]
    assert torch.allclose(got, expected, atol=1e-4)


def test_grouped_attention_is_for_shared_heads_only() -> None:
    assert not shares_heads(make_model("gpt2").config)


@pytest.mark.parametrize("name", ["lora", "houlsby", "prefix"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_bfloat16_base_and_float32_adapters_under_autocast(kind: str, name: str) -> None:
    """As training is by default where the processor computes bfloat16."""
    model = ATTACHED[name](make_model(kind).to(torch.bfloat16)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    adapters = [p for p in model.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in adapters)
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradient = step(model)
    if shares_heads(model.config):
        model.set_attn_implementation(GROUPED)
    with fast_training(model), disable_input_dtype_casting(model), torch.autocast("cpu", torch.bfloat16):
        fast_loss, fast_gradient = step(model)
    assert torch.allclose(loss, fast_loss, rtol=2e-2)
    assert torch.nn.functional.cosine_similarity(gradient, fast_gradient, dim=0) > 0.99


def test_rotations_of_a_part_of_each_head() -> None:
    from transformers import AutoModelForCausalLM, GPTNeoXConfig

    config = GPTNeoXConfig(
        hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=320
    )
    torch.manual_seed(0)
    model = lora(AutoModelForCausalLM.from_config(config))
    loss, gradient = step(model)
    with fast_training(model):
        fast_loss, fast_gradient = step(model)
    assert torch.allclose(loss, fast_loss, rtol=1e-5)
    assert torch.allclose(gradient, fast_gradient, atol=1e-5 * float(gradient.abs().max()))


@compiled_here
@pytest.mark.parametrize(("bits", "in_integers"), [(8, True), (8, False), (4, False)])
@pytest.mark.parametrize("name", ["lora", "houlsby", "prefix", "dora", "ia3"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_packed_weights_are_trained_on_as_what_they_stand_for(
    kind: str, name: str, bits: int, in_integers: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_integers and not code_range():
        pytest.skip("products of integers are not taken here")
    for module in (integer, load_module):  # as where bfloat16 is slow, or fast
        monkeypatch.setattr(module, "computing_dtype", lambda _: torch.float32 if in_integers else torch.bfloat16)
    torch.manual_seed(0)
    make_model(kind, width=128).save_pretrained(tmp_path)
    model = by_name(name)(load_model(tmp_path, bits, training=True)).train()
    without_dropout(model)
    packed = [module for module in model.modules() if is_packed(module)]
    held = [module.weight.data.clone() for module in packed]
    assert len(packed) >= 8
    with fast_training(model), torch.autocast("cpu", torch.bfloat16):
        fast_loss, fast_gradient = step(model)
        again, _ = step(model)
    assert torch.equal(again, fast_loss)
    for module in packed:
        weight = dequantized(module).to(torch.bfloat16)
        module.forward = partial(torch.nn.functional.linear, weight=weight, bias=module.bias)
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradient = step(model)
    assert torch.allclose(loss, fast_loss, rtol=2e-2)
    assert torch.nn.functional.cosine_similarity(gradient.float(), fast_gradient.float(), dim=0) > 0.98
    assert all(torch.equal(module.weight.data, codes) for module, codes in zip(packed, held, strict=True))


@compiled_here
@pytest.mark.parametrize("bits", [8, 4])
def test_packed_weights_are_unpacked_to_the_bit(bits: int, tmp_path: Any) -> None:
    """Held against the exact product of code and scale: bitsandbytes rounds in between, and not alike everywhere."""
    torch.manual_seed(0)
    make_model("llama", width=128).save_pretrained(tmp_path)
    packed = [module for module in load_model(tmp_path, bits, training=True).modules() if is_packed(module)]
    assert packed
    for module in packed:
        made = PackedWeights([module], 32, {}, [32]).matrix()
        exact = exact_weight(module)
        # Half a unit in the last of bfloat16's eight binary places, and what a scale rounded to float32 adds.
        half = torch.exp2(torch.frexp(exact).exponent.double() - 9)
        assert ((made[:, :-32].double() - exact).abs() <= half + exact.abs() * 2**-22).all()
        assert torch.allclose(dequantized(module).double(), exact, rtol=2**-7, atol=0), (
            "other weights than bitsandbytes'"
        )
        assert not made[:, -32:].any()


def exact_weight(module: Any) -> torch.Tensor:
    """The weight that a packed layer stands for, (out, in), in float64."""
    weight = module.weight
    if weight.dtype == torch.int8:
        scales = weight.SCB if weight.SCB is not None else module.state.SCB
        return weight.data.double() * scales.double()[:, None] / 127
    state = weight.quant_state
    scales = state.absmax
    if state.nested:
        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    codes = torch.stack([weight.data.flatten() >> 4, weight.data.flatten() & 15], dim=1).flatten().long()
    values = state.code.double()[codes].view(-1, state.blocksize) * scales.double()[:, None]
    return values.view(module.out_features, module.in_features)


def test_only_the_gelu_with_tanh_becomes_another_one() -> None:
    from transformers.activations import GELUActivation, NewGELUActivation, QuickGELUActivation

    x = torch.linspace(-6, 6, 100)
    chain, one = NewGELUActivation(), fast_gelu(NewGELUActivation())
    assert one is not None
    assert torch.allclose(one(x), chain(x), atol=1e-6)
    assert fast_gelu(GELUActivation()) is None
    assert fast_gelu(QuickGELUActivation()) is None


def rounded(x: torch.Tensor, largest: int) -> torch.Tensor:
    """Each row of x as integers times a step."""
    steps = x.abs().amax(dim=1, keepdim=True) / largest
    return (x / steps).round() * steps


def linear_at_8_bits(outputs: int, inputs: int) -> Any:
    layer = torch.nn.Module()
    codes = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    layer.weight = torch.nn.Parameter(codes, requires_grad=False)
    layer.weight.SCB = torch.rand(outputs) + 0.5
    return layer


@compiled_here
@pytest.mark.parametrize("largest", CODE_RANGES)
def test_products_of_integers_are_those_of_the_rounded_numbers(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not integer._is_exact(largest):
        pytest.skip("this processor adds products in 16 bits")
    monkeypatch.setattr(integer, "code_range", lambda: largest)
    torch.manual_seed(0)
    layers = [linear_at_8_bits(48, 64), linear_at_8_bits(200, 64)]
    x = torch.randn(2, 11, 64)
    x[..., 5] *= 100
    weights = IntegerWeights(layers, x)
    downs, ups = torch.randn(2, 4, 64) * 0.1, [torch.randn(48, 4), torch.randn(200, 4)]
    factors = [factor.requires_grad_() for factor in (*downs.unbind(), *ups)]
    given = x.clone().requires_grad_()
    got = IntegerProjections.apply(given, weights, [None, torch.ones(200)], [0.5, 2.0], *factors)
    gradients = [torch.randn(one.shape) for one in got]
    got_gradients = torch.autograd.grad(got, [given, *factors], gradients)

    rows = x.view(22, 64)
    inner = rows.clone()
    inner[:, weights.outliers] = 0
    outer, low = rows - inner, [rows @ down.t() for down in downs]
    full = [layer.weight.float() * layer.weight.SCB[:, None] / 127 for layer in layers]
    expected = [
        rounded(inner, largest) @ weight.t() + outer @ weight.t() + scale * part @ up.t() + bias
        for weight, part, up, scale, bias in zip(full, low, ups, (0.5, 2.0), (0.0, 1.0), strict=True)
    ]
    assert 5 in weights.outliers
    for one, other in zip(got, expected, strict=True):
        assert torch.allclose(one.view(other.shape), other, atol=1e-5 * float(other.detach().abs().max()))
    parts = [gradient.view(22, -1) for gradient in gradients]
    low_gradients = [scale * part @ up for part, up, scale in zip(parts, ups, (0.5, 2.0), strict=True)]
    x_gradient = sum(
        rounded(part * layer.weight.SCB / 127, largest) @ layer.weight.float() + low_gradient @ down
        for part, layer, low_gradient, down in zip(parts, layers, low_gradients, downs, strict=True)
    )
    down_gradients = [one.t() @ rows for one in low_gradients]
    up_gradients = [part.t() @ one * scale for part, one, scale in zip(parts, low, (0.5, 2.0), strict=True)]
    for one, other in zip(got_gradients, [x_gradient, *down_gradients, *up_gradients], strict=True):
        largest_one = float(other.detach().abs().max())
        assert torch.allclose(one.view(other.shape), other, atol=1e-5 * largest_one)


@compiled_here
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_is_seen_in_products_of_integers(wrong: float) -> None:
    if not code_range():
        pytest.skip("products of integers are not taken here")
    torch.manual_seed(0)
    x = torch.randn(3, 64)
    weights = IntegerWeights([linear_at_8_bits(16, 64)], x)
    x[1, 7] = wrong
    (got,) = IntegerProjections.apply(x, weights, [None], [])
    assert not got[1].isfinite().any()
    assert got[[0, 2]].isfinite().all()


@compiled_here
def test_a_row_does_not_depend_on_those_beside_it_at_8_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    if not code_range():
        pytest.skip("products of integers are not taken here")
    monkeypatch.setattr(integer, "computing_dtype", lambda bits: torch.float32)  # as where bfloat16 is slow
    make_model("llama", width=128).save_pretrained(tmp_path)
    model = load_model(tmp_path, 8, training=True)
    layer = next(module for module in model.modules() if is_packed(module))
    with fast_training(model):
        taken = "forward" in vars(layer)
        one = layer(torch.ones(1, 3, 128))
        both = layer(torch.cat((torch.ones(1, 3, 128), 1e3 * torch.randn(1, 3, 128))))
    assert taken
    assert torch.allclose(one[0], both[0], atol=1e-5 * float(one.abs().max()))
