"""Answers from our loop are those of recomputing without a cache, one prompt at a time."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from tiny import make_model
from workbench.data.render import Rendered
from workbench.generation import context
from workbench.generation.decode import decode_batch
from workbench.methods.bottleneck import BottleneckConfig
from workbench.models import has_linear_output
from workbench.training.loss import RightPadding, labelled, negative_log_likelihoods

END, MOST = 2, 12


def config(adapter: str) -> Any:
    """A configuration of its own for each model: PEFT writes what it found in the model into it."""
    match adapter:
        case "lora":
            return LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        case "houlsby":
            return BottleneckConfig(bottleneck_size=4, init_weights=False, task_type="CAUSAL_LM")
        case "prefix":
            return PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
        case "prompt":
            return PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    return None


def items() -> list[Rendered]:
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(3, 320, (count,), generator=generator).tolist()

    return [
        Rendered(id=str(n), text="", prompt_ids=ids(n), completion_ids=[*ids(n % 4 + 1), END]) for n in (3, 9, 5, 20, 7)
    ]


@torch.inference_mode()
def recomputed(model: Any, prompt: list[int], ends: list[int]) -> list[int]:
    ids, new = list(prompt), []
    for _ in range(MOST):
        mask = torch.ones(1, len(ids)).long()
        token = int(model(input_ids=torch.tensor([ids]), attention_mask=mask, use_cache=False).logits[0, -1].argmax())
        if token in ends:
            break
        new.append(token)
        ids.append(token)
    return new


@pytest.mark.parametrize("adapter", ["none", "lora", "houlsby", "prefix", "prompt"])
@pytest.mark.parametrize("kind", ["gpt1", "gpt2", "llama", "gemma3"])
def test_it_equals_recomputing(kind: str, adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if (kind, adapter) == ("gpt1", "prefix"):
        pytest.skip("GPT-1 takes no keys and values")
    monkeypatch.setitem(context.READ_TOKENS, "cpu", 64)  # two rows together
    torch.manual_seed(0)
    model = make_model(kind)
    if adapter != "none":
        model = get_peft_model(model, config(adapter)).eval()
    expected = [recomputed(model, item.prompt_ids, [END]) for item in items()]
    # With a frequent token as a second end, rows leave the batch at different times.
    often = expected[0][3] if len(expected[0]) > 3 else END
    for ends, linear_output in (([END], False), ([END, often], has_linear_output(model))):
        got = decode_batch(model, items(), ends, 0, MOST, linear_output)
        assert [d.tokens for d in got] == [recomputed(model, item.prompt_ids, ends) for item in items()]
    for item, decoded in zip(items(), got, strict=True):
        losses, _ = negative_log_likelihoods(model, **RightPadding(0)([labelled(item)]))
        assert decoded.nll == pytest.approx(losses.sum().item(), rel=1e-4)


def test_it_equals_generate() -> None:
    model = make_model("gpt2")
    for item, decoded in zip(items(), decode_batch(model, items(), [END], 0, MOST), strict=True):
        ids = torch.tensor([item.prompt_ids])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=MOST,
            eos_token_id=END, pad_token_id=0,
        )[0, len(item.prompt_ids) :].tolist()  # fmt: skip
        assert [token for token in output if token != END] == decoded.tokens
