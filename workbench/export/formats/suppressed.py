"""What a checkpoint may not write, and one that can't, for runtimes that can't be forbidden to."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.models import load_model, load_tokenizer, release_memory


def suppressed_entries(checkpoint: Path) -> list[int]:
    """Entries of the vocabulary that the model may not write, such as those that stand for a soft prompt."""
    file = checkpoint / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return list(settings.get("suppress_tokens") or ())


@contextmanager
def unable_to_say_them(merged: Path, beside: Path) -> Iterator[Path]:
    """The folder of a checkpoint whose output layer can't say what its `generation_config.json` suppresses.

    transformers and llama.cpp heed `suppress_tokens`; onnxruntime-genai and OpenVINO don't. There the output layer is
    made one of its own, in which those entries have a row of zeros: their logit is 0, the largest only where none is
    above it. Whether that happens, the answers that are compared tell.

    Args:
        merged: the checkpoint; it is given as it is where nothing is suppressed.
        beside: an empty folder for the other one.
    """
    entries = suppressed_entries(merged)
    if not entries:
        yield merged
        return
    model: Any = load_model(merged, 32)
    before = model.get_output_embeddings()
    output = nn.Linear(before.in_features, before.out_features, bias=before.bias is not None)
    with torch.no_grad():
        output.weight.copy_(before.weight)
        output.weight[entries] = 0
        if before.bias is not None:
            output.bias.copy_(before.bias)
            output.bias[entries] = 0
    model.set_output_embeddings(output)
    model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = False
    folder = beside / "unable"
    model.save_pretrained(folder)
    load_tokenizer(merged).save_pretrained(folder)
    del model, before, output  # what writes the format loads its own
    release_memory()
    yield folder
