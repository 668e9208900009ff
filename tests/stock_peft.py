"""The cells of `matrix.py` with PEFT alone, used as its documentation shows, and held to the same.

    python tests/stock_peft.py

A cell trains a few steps, answers in a batch padded on the left, saves, reloads, merges (`merge_and_unload`), saves
that and loads it with transformers. In float32 its answers must be those of one prompt at a time and of reading
everything anew, and merged it must have the adapter's logits within 1e-5 of the largest. In other precisions, where
PEFT computes and merges in the base's own and roundings decide between near ties, answers must only come, and merged
must be the same greedy text on all prompts. (The workbench merges into float32 and holds all precisions to what float32
is held to here.) It must not be the base. Where merging is not offered, the cell has no export.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from matrix import METHODS
from tiny import KINDS, make_model
from workbench.console import quiet_libraries
from workbench.models import BITS

STEPS, NEW_TOKENS, TOLERANCE = 6, 8, 1e-5
CONFIGS: dict[str, Callable[[], Any]] = {
    "lora": lambda: LoraConfig(task_type="CAUSAL_LM"),
    "rslora": lambda: LoraConfig(use_rslora=True, task_type="CAUSAL_LM"),
    "dora": lambda: LoraConfig(use_dora=True, task_type="CAUSAL_LM"),
    "adalora": lambda: AdaLoraConfig(total_step=STEPS, tinit=1, tfinal=2, deltaT=1, task_type="CAUSAL_LM"),
    "ia3": lambda: IA3Config(task_type="CAUSAL_LM"),
    "prefix": lambda: PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "prompt": lambda: PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "ptuning": lambda: PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=32, task_type="CAUSAL_LM"),
}
PROMPTS = [list(range(3 + n, 3 + n + length)) for n, length in enumerate((5, 9, 14, 20))]


def load(path: Path, bits: int) -> Any:
    quantized = {
        8: BitsAndBytesConfig(load_in_8bit=True),
        4: BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    }.get(bits)  # fmt: skip
    kind = torch.float32 if bits == 32 else torch.bfloat16
    return unpacked(AutoModelForCausalLM.from_pretrained(path, dtype=kind, quantization_config=quantized))


def unpacked(model: Any) -> Any:
    """bitsandbytes packs 4-bit weights for inference, which it can't do with layers as small as these."""
    modules: list[Any] = list(model.modules())
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def answer(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    settings = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "pad_token_id": 0}
    with torch.inference_mode():
        return model.generate(input_ids=ids, attention_mask=mask, **settings)[:, -NEW_TOKENS:].tolist()


def recomputed(model: Any, prompt: list[int]) -> list[int]:
    """Without a cache; the end of a text is no more likely than `min_new_tokens` lets it be."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(NEW_TOKENS):
            mask = torch.ones(1, len(ids)).long()
            found = model(input_ids=torch.tensor([ids]), attention_mask=mask, use_cache=False).logits[0, -1]
            found[2] = -torch.inf
            ids.append(int(found.argmax()))
    return ids[len(prompt) :]


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model(input_ids=torch.tensor([p])).logits[0, -4:].float() for p in PROMPTS])


def trains_and_answers(path: Path, name: str, bits: int, adapter: Path) -> str | None:
    """What is wrong before any export; None if nothing is."""
    torch.manual_seed(0)
    model = get_peft_model(load(path, bits), CONFIGS[name]()).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids = torch.tensor([list(range(3, 40))])
    before = logits(model.eval())
    model.train()
    for step in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16, enabled=bits < 32):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        if name == "adalora":
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    if not (logits(model.eval()) - before).abs().max() > 0:
        return "learns nothing"
    together = answer(model, PROMPTS)
    if bits == 32 and together != [answer(model, [prompt])[0] for prompt in PROMPTS]:
        return "answers otherwise in a padded batch"
    if bits == 32 and together != [recomputed(model, prompt) for prompt in PROMPTS]:
        return "answers otherwise without a cache"
    model.save_pretrained(adapter)
    loaded = PeftModel.from_pretrained(load(path, bits), adapter).eval()
    return None if answer(loaded, PROMPTS) == together else "answers otherwise after loading"


def exports(path: Path, bits: int, adapter: Path, folder: Path) -> str | None:
    """What is wrong with the merged checkpoint; None if nothing is."""
    base = logits(load(path, bits).eval())
    model = PeftModel.from_pretrained(load(path, bits), adapter).eval()
    trained, texts = logits(model), answer(model, PROMPTS)
    model.merge_and_unload(safe_merge=True).save_pretrained(folder)
    plain = unpacked(AutoModelForCausalLM.from_pretrained(folder)).eval()
    difference = float((logits(plain) - trained).abs().max())
    if bits == 32 and difference > TOLERANCE * float(trained.abs().max()):
        return f"logits differ by {difference:.1e}"
    if answer(plain, PROMPTS) != texts:
        return "answers otherwise when merged"
    return None if float((base - trained).abs().max()) > 2 * difference else "merged is the base"


def attempt(function: Callable[..., str | None], *arguments: Any) -> str | None:
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001  what a user would see
        return f"{type(error).__name__}: {' '.join(str(error).split())[:90]}"


def main() -> int:
    quiet_libraries()
    names = [name for name in METHODS if name != "full"]
    usable = exported = 0
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "base")
            make_model(kind).save_pretrained(path)
            for bits in BITS:
                for name in names:
                    adapter, merged = Path(folder, f"{name}{bits}"), Path(folder, f"{name}{bits}-merged")
                    wrong = (
                        "not in PEFT" if name not in CONFIGS else attempt(trains_and_answers, path, name, bits, adapter)
                    )
                    unexported = wrong or attempt(exports, path, bits, adapter, merged)
                    usable += wrong is None
                    exported += unexported is None
                    state = "exported" if unexported is None else "trained " if wrong is None else "FAILED  "
                    print(f"{kind:9}{bits:3} {name:9}{state} {unexported or ''}", file=sys.stderr)
    cells = len(KINDS) * len(BITS) * len(names)
    print(f"PEFT alone: {usable} of {cells} cells train, answer, save and load right; {exported} also export")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
