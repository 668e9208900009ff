"""Merge, write and prove a model of several shards under a ceiling on the memory that processes may reserve.

    python tests/ceiling.py FOLDER METHOD PRECISION

The ceiling is what was reserved before the model was there, and then the base, a shard, and `ROOM` for activations and
for one layer as it is summed; the process that reads the export has the same.
"""

import copy
import os
import re
import resource
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tiny import SETTINGS, make_model, make_tokenizer, rows
from workbench.console import quiet_libraries
from workbench.data import conversation
from workbench.data.render import make_renderer, render_all
from workbench.export import (
    Expected,
    FreshProcess,
    Proof,
    Question,
    interface_of,
    proof_sequences,
    sequence_logits,
    write_proven,
)
from workbench.export import proof as proof_module
from workbench.export.process import ReadBack
from workbench.generation.decode import decode_batch
from workbench.generation.engine import generation_config
from workbench.methods import NotMergeable, find_method
from workbench.models import attach, load_model, plain_model, release_memory

ROOM = 110 * 10**6
SHARD = 60 * 10**6
BITS = {torch.float32: 32, torch.bfloat16: 16}
NEW_TOKENS, LAYERS, ADAPTER = 3, 8, 0.1
EXAMPLES = [example for row in rows(2) for example in conversation(row)]


def reserved() -> int:
    """Bytes of the address space of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")


class Watched(FreshProcess):
    """One that is asked only when the model that was merged is gone."""

    most: int | None = None

    def read(self, checkpoint: Path, question: Question) -> ReadBack:
        """See `FreshProcess`."""
        assert self.most is None or reserved() < self.most, "the merged model is still held"
        return super().read(checkpoint, question)


def make_base(folder: Path, width: int, dtype: torch.dtype) -> int:
    """A random checkpoint in shards; its bytes."""
    make_model("llama", width=width, num_hidden_layers=LAYERS).to(dtype).save_pretrained(folder, max_shard_size=SHARD)
    make_tokenizer().save_pretrained(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def carried_through(base: Path, method: str, dtype: torch.dtype, to: Path) -> Proof:
    """Attach an adapter with weights as after a training, merge, write, prove."""
    renderer = make_renderer(make_tokenizer())
    rendered = list(render_all(renderer, EXAMPLES, 200)[0].rendered)
    chosen, ids = find_method(method), rendered[0].prompt_ids
    model: Any = attach(load_model(base, BITS[dtype]), chosen, SETTINGS.get(method, {}), ids, seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * ADAPTER)
    generation, sequences = generation_config(renderer, model.generation_config), proof_sequences(rendered)
    answers = decode_batch(model, rendered, generation.eos_token_id, 0, NEW_TOKENS)
    with model.disable_adapter():
        base_logits = sequence_logits(model, sequences)
    expected = Expected(
        logits=sequence_logits(model, sequences),
        base_logits=lambda: base_logits,
        texts=[renderer.tokenizer.decode(one.tokens, skip_special_tokens=True).strip() for one in answers],
        interface=partial(interface_of, copy.deepcopy(renderer), EXAMPLES, copy.deepcopy(plain_model(model).config)),
    )
    assert not isinstance(chosen.merge, NotMergeable)
    merged, tokenizer = chosen.merge(model, renderer.tokenizer)
    with Watched() as process:
        return write_proven(
            merged, tokenizer, generation, to, rendered, expected, "# card", process, NEW_TOKENS, dtype
        )  # fmt: skip


def main(folder: Path, method: str, precision: str) -> None:
    """Carry a tiny model through, for whatever is loaded and kept once; then a large one under the ceiling."""
    quiet_libraries()
    dtype = getattr(torch, precision)
    make_base(folder / "tiny", 32, dtype)
    size = make_base(folder / "base", 1024, dtype)
    assert len(list((folder / "base").glob("*.safetensors"))) > 2
    carried_through(folder / "tiny", method, dtype, folder / "tiny-merged")
    release_memory()
    before = reserved()
    ceiling, Watched.most = before + size + SHARD + ROOM, before + size
    resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
    proof_module.SHARD = SHARD
    proof = carried_through(folder / "base", method, dtype, folder / "merged")
    assert proof.holds, proof.reason
    peak = int(re.search(r"VmPeak:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
    print(f"{size / 1e6:.0f} MB of weights, under a ceiling {(ceiling - peak) / 1e6:.0f} MB above what was reserved")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
