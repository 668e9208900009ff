"""Time and memory as the data grow: rows from a thousand to a million, and texts from 64 to 1,024 tokens.

    python benchmarks/growth.py                  both; a million rows take a few minutes
    python benchmarks/growth.py --most 100000    no more rows than that

Rows: a job is prepared from a file of so many conversations (read, checked, deduplicated, tokenized, packed), then a
small model is trained for a fixed number of steps on it; each size in a process of its own. Lengths: steps of the same
model on texts of one length. Printed are the exponents that fit best, time ~ size ** exponent, and memory as it is,
with and without what the process had before.
"""

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from measure import Result, Side, keep, machine, own_memory, take_turns

STEPS, BATCH = 20, 8
OWN = "RssAnon"  # without mapped files
ANSWER = 32  # tokens of each text that are learned
SIZES = (1_000, 10_000, 100_000, 1_000_000)
LENGTHS = (64, 256, 1024)
WORDS = ("account", "card", "fee", "limit", "transfer", "branch", "loan", "rate", "letter", "month", "form", "code")
RECIPE = """
from workbench import Recipe
from workbench.data import conversation

recipe = Recipe(
    checkpoint={checkpoint!r},
    data={{"train": {train!r}, "validation": {held_out!r}, "test": {held_out!r}}},
    allow_leaks=("test",),
    row_to_examples=conversation,
    methods=("lora",),
    metrics=("bleu",),
    primary_metric="bleu",
    max_tokens=128,
    max_new_tokens=16,
)
"""


def small_model(folder: Path) -> Path:
    """A model of a few layers with random weights and SmolLM2's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from workbench.sources import SMOLLM2, fetch_checkpoint

    tokenizer = AutoTokenizer.from_pretrained(fetch_checkpoint(SMOLLM2).path)
    torch.manual_seed(0)
    shape: Any = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **shape, **ends))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def write_rows(path: Path, count: int, seed: int) -> Path:
    """Conversations of one turn, no two alike."""
    drawn = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            asked, said = (" ".join(drawn.choices(WORDS, k=8)) for _ in range(2))
            file.write(
                f'{{"id": "{number}", "messages": [{{"role": "user", "content": "{seed} {number} {asked}?"}}, '
                f'{{"role": "assistant", "content": "{said}."}}]}}\n'
            )
    return path


def of_rows(count: int) -> Result:
    """Prepare a job of `count` rows, and train."""
    from workbench import Training
    from workbench.models import attach, load_model
    from workbench.recipe import load_recipe
    from workbench.run.prepare import prepare
    from workbench.training import train

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {"train": write_rows(folder / "train.jsonl", count, 0)}
        paths["held_out"] = write_rows(folder / "held_out.jsonl", 100, 1)
        recipe = folder / "recipe.py"
        texts = {key: str(path) for key, path in paths.items()}
        recipe.write_text(RECIPE.format(checkpoint=str(small_model(folder)), **texts), encoding="utf-8")
        before, watch = own_memory(OWN), Watch()
        began = time.perf_counter()
        job = prepare(load_recipe(recipe), bits=32)
        prepared = time.perf_counter() - began
        model = attach(load_model(folder / "model", 32, training=True), job.tuned[0].method, {}, [], seed=0)
        steps = STEPS / -(-len(job.rows.train) // BATCH)
        training = Training(num_train_epochs=steps, batch_size=BATCH, validations=1)
        began = time.perf_counter()
        tokenizer = job.renderer.tokenizer
        train(model, tokenizer, job.rows, training, 1e-3, False, folder / "run", 0, "")
        trained = time.perf_counter() - began
    times = {"prepare": prepared, "train": trained, "time": prepared + trained}
    return {**times, "memory": watch.most(), "base": before}


def of_length(length: int) -> Result:
    """Steps on texts of `length` tokens."""
    import torch

    from workbench.methods import find_method
    from workbench.models import attach, fast_training, has_linear_output, load_model
    from workbench.training.loss import IGNORED, negative_log_likelihoods

    with tempfile.TemporaryDirectory() as name:
        path = small_model(Path(name))
        model = attach(load_model(path, 32, training=True), find_method("lora"), {}, [], seed=0).train()
    before, watch = own_memory(OWN), Watch()
    ids = torch.randint(5, 5000, (BATCH, length), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :-ANSWER] = IGNORED
    seconds, plain = [], has_linear_output(model)
    with fast_training(model):
        for _ in range(5):
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                losses, _ = negative_log_likelihoods(model, ids, torch.ones_like(ids), labels, plain)
            losses.mean().backward()
            seconds.append(time.perf_counter() - began)
    return {"time": float(np.median(seconds[1:])), "memory": watch.most(), "base": before}


class Watch(threading.Thread):
    """Notes the most memory that this process has of its own, in bytes, until `most` is asked for.

    Pages of files that are mapped into memory are not counted: the system takes them back when it needs them.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._most, self._done = own_memory(OWN), threading.Event()
        self.start()

    def run(self) -> None:
        """Look every hundredth of a second."""
        while not self._done.wait(0.01):
            self._most = max(self._most, own_memory(OWN))

    def most(self) -> int:
        """The most, in bytes."""
        self._done.set()
        return max(self._most, own_memory(OWN))


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Of the power law that fits best."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def measured(kind: str, sizes: Sequence[int]) -> dict[int, Result]:
    """One process for each size."""
    found = {}
    for size in sizes:
        side = Side(Path(__file__), ["--side", f"{kind}:{size}"])
        found[size] = side.turn()
        side.end()
        times = [what for what in ("prepare", "train", "time") if what in found[size]]
        parts = ", ".join(f"{what} {found[size][what]:.2f} s" for what in times)
        memory = f"at most {found[size]['memory'] / 1e6:.0f} MB, {found[size]['base'] / 1e6:.0f} before"
        print(f"{size} {kind}: {parts}; {memory}", flush=True)
    return found


def draw(found: Mapping[str, Mapping[int, Result]]) -> None:
    """Time and memory against size."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(found), figsize=(5 * len(found), 6), layout="constrained", squeeze=False)
    for column, (kind, results) in enumerate(found.items()):
        for row, (what, scale, unit) in enumerate((("time", 1, "seconds"), ("memory", 1e6, "MB at most"))):
            values = [result[what] / scale for result in results.values()]
            axes[row, column].plot(list(results), values, marker="o", color="#4477aa")
            axes[row, column].set(xscale="log", xlabel=kind, ylabel=unit)
            if what == "time":
                axes[row, column].set_yscale("log")
            else:
                axes[row, column].set_ylim(0, max(values) * 1.2)
    keep(figure, "growth")


def main() -> None:
    """Measure sizes, smallest first."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--most", type=int, default=SIZES[-1], metavar="N", help="rows (default: 1000000)")
    p.add_argument("--side", help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.side:
        kind, _, size = options.side.partition(":")
        take_turns(lambda _: {"rows": of_rows, "tokens": of_length}[kind](int(size)))
        return
    print(f"# Growth\n{machine()}")
    rows = measured("rows", [size for size in SIZES if size <= options.most])
    tokens = measured("tokens", LENGTHS)
    large = [size for size in rows if size >= SIZES[1]]
    if len(large) > 1:
        print(f"time ~ rows ** {exponent(large, [rows[size]['time'] for size in large]):.2f} from {large[0]:,} rows on")
    for smaller, larger in pairwise(rows):
        ratio = rows[larger]["memory"] / rows[smaller]["memory"]
        more = (rows[larger]["memory"] - rows[smaller]["memory"]) / (larger - smaller)
        print(f"memory at {larger:,} rows to that at {smaller:,}: {ratio:.2f}, {more:.0f} bytes for each further row")
    print(f"time of a step ~ tokens ** {exponent(LENGTHS, [tokens[n]['time'] for n in LENGTHS]):.2f}")
    above = [tokens[n]["memory"] - tokens[n]["base"] for n in LENGTHS[1:]]
    print(f"memory of a step ~ tokens ** {exponent(LENGTHS[1:], above):.2f}")
    draw({"rows": rows, "tokens": tokens})


if __name__ == "__main__":
    main()
