"""Training beside stock TRL in alternating processes: the same checkpoint, data, LoRA, batches, order and seed.

    python benchmarks/training.py                  SmolLM2-135M at 16 bits
    python benchmarks/training.py --model gpt2     a GPT-2 of 124M random weights
    python benchmarks/training.py --upper          beside LoRA in the upper half of the layers, from its second epoch on
    python benchmarks/training.py --bits 8 4       against bitsandbytes' own layers (4: NF4), and our own, not quantized

Stock is `SFTTrainer` with its defaults but for what both get alike: LoRA of rank 8 on the attention's query and value
(GPT-2: on its one matrix of query, key and value), batches of 8 in the order of the file, a constant rate, the loss on
answers alone. Its defaults hold the base in float32, compute in bfloat16, and compute activations again for the
gradient; `--tuned` lets it take a turn with activations kept as well, and with a base and products in bfloat16. Where
the processor has no units for bfloat16, a step of the defaults takes minutes: there it takes turns in float32 with
activations kept, and with the defaults if `--defaults` is given. Losses are compared step by step. Of every process:
tokens of text a second, without padding; the highest memory; and how much of what a product of large matrices reaches
there and then, of the kind that it computes with, the training takes.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from measure import (
    FINSERVE,
    Result,
    Side,
    alternate,
    draw_bars,
    machine,
    median,
    own_memory,
    ratios,
    spread,
    take_turns,
)

from workbench.console import share_processor

BATCH, RANK, RATE = 8, 8, 2e-4
STOCK, TUNED, OURS = "stock", "stock, tuned", "workbench"
# The same in the upper half of the layers, what the lower half gives being on disk: every epoch but the first.
UPPER = "workbench, upper half"
# Rows and columns of the matrices by which the peak is measured.
LARGE = 2048


def checkpoint(model: str, folder: Path) -> Path:
    """A folder with the model; GPT-2 gets SmolLM2's tokenizer and random weights."""
    from workbench.sources import SMOLLM2, fetch_checkpoint

    smollm2 = fetch_checkpoint(SMOLLM2).path
    if model == "smollm2":
        return smollm2
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)  # as losses are compared
    GPT2LMHeadModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(smollm2).save_pretrained(folder)
    return folder


def rendered(path: Path, count: int) -> Any:
    """The first turns of the first conversations of the file, as tokens."""
    from workbench.data import conversation
    from workbench.data.render import make_renderer, render_all
    from workbench.models import load_tokenizer
    from workbench.sources import read_rows

    rows = [row.values for row, _ in zip(read_rows(FINSERVE / "train.jsonl"), range(count), strict=False)]
    examples = [conversation(row, system="Larkmoor Bank")[0] for row in rows]
    return render_all(make_renderer(load_tokenizer(path)), examples, 512)[0].rendered


def train_stock(path: Path, bits: int, steps: int, targets: Sequence[str], tuned: bool = False) -> Result:
    """`SFTTrainer`; `tuned`: with its activations kept, and with what this processor is best at."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig, set_seed
    from trl import SFTConfig, SFTTrainer

    from workbench.models import bfloat16_is_fast

    quantization = {
        8: BitsAndBytesConfig(load_in_8bit=True),
        4: BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    }
    held: dict[str, Any] = {"quantization_config": quantization[bits]} if bits in quantization else {}
    chosen: dict[str, Any] = {}
    if tuned:
        held["dtype"] = "bfloat16" if bfloat16_is_fast() else "float32"
        chosen |= {"gradient_checkpointing": False, "bf16": bfloat16_is_fast()}
    examples = rendered(path, BATCH * steps)
    columns = {
        "input_ids": [[*one.prompt_ids, *one.completion_ids] for one in examples],
        "completion_mask": [[0] * len(one.prompt_ids) + [1] * len(one.completion_ids) for one in examples],
    }
    set_seed(0)
    with tempfile.TemporaryDirectory() as folder, stepping() as clock:
        trainer = SFTTrainer(
            model=str(path),
            args=SFTConfig(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=BATCH,
                learning_rate=RATE,
                lr_scheduler_type="constant",
                completion_only_loss=True,
                use_cpu=not torch.accelerator.is_available(),  # without it, its defaults are refused on a CPU
                train_sampling_strategy="sequential",
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                model_init_kwargs=held,
                **chosen,
            ),
            train_dataset=Dataset.from_dict(columns),
            peft_config=LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(targets), task_type="CAUSAL_LM"),
        )
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    computed = torch.float32 if tuned and not bfloat16_is_fast() else torch.bfloat16
    return result(trainer.model, examples, losses, clock.seconds, computed)


def train_ours(
    path: Path, bits: int, steps: int, targets: Sequence[str], upper_half_kept_in: Path | None = None
) -> Result:
    """The same in this project."""
    import torch

    from workbench import Training
    from workbench.methods import find_method
    from workbench.models import attach, bfloat16_is_fast, load_model, load_tokenizer
    from workbench.models.fast.integer import code_range
    from workbench.training import Place, train, training_rows

    examples = rendered(path, BATCH * steps)
    settings: dict[str, Any] = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": list(targets)}
    base = load_model(path, bits, training=True)
    if upper_half_kept_in is not None:
        layers = base.config.get_text_config().num_hidden_layers
        settings["layers_to_transform"] = list(range(layers // 2, layers))
    model = attach(base, find_method("lora"), settings, [], seed=0, steps=steps)
    extra = {"train_sampling_strategy": "sequential", "save_strategy": "no"}
    training = Training(
        num_train_epochs=1, batch_size=BATCH, warmup_steps=0, validations=1, lr_scheduler_type="constant", extra=extra
    )
    tokenizer, given = load_tokenizer(path), training_rows(examples, examples[:1])
    fast = bits < 32 and bfloat16_is_fast()
    with tempfile.TemporaryDirectory() as folder, stepping() as clock:
        place = Place(upper_half_kept_in, "rows") if upper_half_kept_in is not None else None
        trained = train(model, tokenizer, given, training, RATE, fast, Path(folder), 0, "workbench", kept_in=place)
    losses = [entry["loss"] for entry in trained.curve if "loss" in entry]
    computed = torch.bfloat16 if fast else torch.int8 if bits == 8 and code_range() else torch.float32
    return result(model, examples, losses, clock.seconds, computed)


@contextmanager
def stepping() -> Iterator[Any]:
    """Times, in `seconds`, the optimizer steps of a Trainer that is made in the block: from the first to the last."""
    from transformers import TrainerCallback, trainer

    class Clock(TrainerCallback):
        began = seconds = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = self.began or time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds = time.perf_counter() - self.began

    clock: Any = Clock()
    trainer.DEFAULT_CALLBACKS.append(clock)
    try:
        yield clock
    finally:
        trainer.DEFAULT_CALLBACKS.remove(clock)


def result(model: Any, examples: Any, losses: Sequence[float], seconds: float, computed: Any) -> Result:
    """What both sides tell.

    Args:
        computed: dtype of most of its products.
    """
    tokens = sum(one.length for one in examples)
    operations = matrix_operations(model, tokens, sum(len(one.completion_ids) for one in examples))
    return {
        "losses": list(losses),
        "tokens": tokens,
        "speed": tokens / seconds,
        "share": operations / seconds / matrix_peak(computed),
        "peak": own_memory("VmHWM"),
        "frozen": frozen_bytes(model),
        "whole": sum(p.numel() * p.element_size() for p in model.parameters()),
    }


def matrix_operations(model: Any, tokens: int, labels: int) -> float:
    """Of a step's products with frozen weights, at the least: forwards, and backwards to the input.

    The output layer is needed where there is a label only. Attention's own products and LoRA's are not counted.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    output = model.get_output_embeddings()
    inner = sum(
        weight_count(module)
        for name, module in model.named_modules()
        if is_linear(module) and module is not output and "lora_" not in name and not isinstance(module, BaseTunerLayer)
    )
    return 4.0 * (inner * tokens + weight_count(output) * labels)


def is_linear(module: Any) -> bool:
    """Whether a module multiplies with a matrix."""
    return any(kind.__name__ in ("Linear", "Conv1D") for kind in type(module).__mro__)


def weight_count(module: Any) -> int:
    """Weights of a matrix, also of a packed one."""
    state = getattr(module.weight, "quant_state", None)
    return int(module.weight.numel() if state is None else state.shape.numel())


def matrix_peak(dtype: Any) -> float:
    """Operations a second of a product of large matrices, now and here."""
    import torch

    a, b = torch.randn(2, LARGE, LARGE).to(dtype)
    product = torch._int_mm if dtype == torch.int8 else torch.mm
    turned = b.t()  # as weights lie
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        product(a, turned)
        best = min(best, time.perf_counter() - began)
    return 2.0 * LARGE**3 / best


def frozen_bytes(model: Any) -> int:
    """Bytes of the frozen matrices that quantization is about, their scales included."""
    output, total = model.get_output_embeddings(), 0
    for name, module in model.named_modules():
        if not is_linear(module) or module is output or "lora_" in name or "weight" not in module._parameters:
            continue
        weight = module.weight
        state = getattr(weight, "quant_state", None)
        kept = [getattr(weight, "SCB", None), getattr(getattr(module, "state", None), "SCB", None)]
        scales = [scale for scale in kept if scale is not None][:1]  # it stands in one place or the other
        if state is not None:
            scales = [state.absmax, *([state.state2.absmax] if state.nested else [])]
        total += sum(part.numel() * part.element_size() for part in (weight, *scales))
    return total


def one_side(options: argparse.Namespace) -> None:
    """Train whenever asked to."""
    if options.side not in (STOCK, TUNED):
        share_processor()  # as the commands of this project do
    targets = ("q_proj", "v_proj") if options.model == "smollm2" else ("c_attn",)
    trains: dict[str, Callable[..., Result]] = {STOCK: train_stock, TUNED: partial(train_stock, tuned=True)}
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint(options.model, Path(folder))
        kept = Path(folder, "kept")
        trains[UPPER] = partial(train_ours, upper_half_kept_in=kept)
        side = trains.get(options.side, train_ours)
        # The first epoch of the upper half is no turn that counts: all of its rows are read in the first one.
        first = options.steps if options.side == UPPER else 1
        take_turns(lambda warm: side(path, options.bits[0], first if warm else options.steps, targets))


def main() -> None:
    """Let the sides take turns, and compare."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=("smollm2", "gpt2"), default="smollm2", help="(default: smollm2)")
    p.add_argument(
        "--bits",
        type=int,
        nargs="+",
        choices=(32, 16, 8, 4),
        help="of the frozen base (default: 16 where the processor multiplies bfloat16 fast, 32 elsewhere)",
    )
    p.add_argument("--steps", type=int, default=3, metavar="N", help="optimizer steps of each turn (default: 3)")
    p.add_argument("--rounds", type=int, default=3, metavar="N", help="turns that count (default: 3)")
    p.add_argument("--tuned", action="store_true", help="let stock with better settings take turns, too")
    p.add_argument("--defaults", action="store_true", help="let stock's defaults take turns where they take minutes")
    p.add_argument("--upper", action="store_true", help="let LoRA in the upper half of the layers take turns, too")
    p.add_argument("--side", help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.side:
        one_side(options)
        return
    from workbench.models import bfloat16_is_fast, default_bits

    whole_bits = default_bits()  # to which others are compared
    options.bits = options.bits or [whole_bits]
    print(f"# Training {options.model} at {' and '.join(map(str, options.bits))} bits\n{machine()}")
    slow = not bfloat16_is_fast()
    stock = [STOCK] * (options.defaults or not slow) + [TUNED] * (options.tuned or slow)
    ours = [OURS, *([UPPER] if options.upper else [])]
    wanted = [(name, bits) for bits in options.bits for name in (*stock, *ours)]
    if whole_bits not in options.bits:
        wanted.append((OURS, whole_bits))
    shared = ["--model", options.model, "--steps", str(options.steps)]
    sides = {
        called(name, bits): Side(Path(__file__), ["--side", name, "--bits", str(bits), *shared])
        for name, bits in wanted
    }
    found = alternate(sides, options.rounds)
    for name, turns in found.items():
        print(
            f"{name}: {median(turns, 'speed'):.0f} tokens/s, {100 * median(turns, 'share'):.0f} % of the "
            f"peak of its products, at most {median(turns, 'peak') / 1e9:.2f} GB; frozen matrices "
            f"{turns[0]['frozen'] / 1e6:.1f} MB, all weights {turns[0]['whole'] / 1e6:.1f} MB"
        )
    for bits in options.bits:
        for side in ours:
            for name in stock:
                faster = ratios(found[called(side, bits)], found[called(name, bits)], "speed")
                print(f"{bits} bits, tokens/s, {side} to {name}: {spread(faster)}")
        whole = found[called(OURS, bits)]
        if bits < 16:
            beside, against = found[called(OURS, whole_bits)], f"to that at {whole_bits} bits"
            print(f"{bits} bits, time of a step {against}: {spread(ratios(beside, whole, 'speed'))}")
            print(f"{bits} bits, size of frozen matrices {against}: {whole[0]['frozen'] / beside[0]['frozen']:.3f}")
            print(f"{bits} bits, size of all weights {against}: {whole[0]['whole'] / beside[0]['whole']:.3f}")
        pairs = list(zip(found[called(stock[0], bits)][0]["losses"], whole[0]["losses"], strict=True))
        print(f"{bits} bits, loss by step, stock and workbench: " + ", ".join(f"{a:.3f} {b:.3f}" for a, b in pairs))
        print(f"{bits} bits, largest difference of losses: {100 * max(abs(a - b) / a for a, b in pairs):.2f} %")
    bars = {name: [one["speed"] for one in turns] for name, turns in found.items()}
    name = f"training-{options.model}-{'-'.join(map(str, options.bits))}"
    draw_bars(name, f"Training {options.model}, LoRA", "tokens of text a second", bars)


def called(name: str, bits: int) -> str:
    """A side in words."""
    return f"{name}, {bits} bits"


if __name__ == "__main__":
    main()
