"""Write a checkpoint as a GGUF file, one weight after the other."""

from contextlib import ExitStack
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType

from workbench.console import progress_bar
from workbench.export.diagnosis import weights_of
from workbench.export.formats.gguf.quantized import FILE_TYPES, as_held, bytes_of, held_as
from workbench.export.formats.gguf.settings import architecture_of, tensor_names, write_settings
from workbench.export.formats.gguf.vocabulary import write_vocabulary
from workbench.export.formats.suppressed import suppressed_entries
from workbench.models import load_tokenizer
from workbench.models.checkpoint import read_config

MODEL_FILE = "model.gguf"
# Where it is missing, the embeddings are the output layer, too.
OUTPUT = "output.weight"
# A list of ids, which `gguf` has no name for yet.
SUPPRESSED = "tokenizer.ggml.suppress_tokens"


def write_gguf(
    checkpoint: Path, file: Path, quantization: str, name: str, end_of_turn: int, tokenizer: Path | None = None
) -> None:
    """Write the checkpoint in the folder `checkpoint` to `file`.

    Args:
        quantization: "f32", "f16", "q8_0" or "q4_k_m".
        name: of the model, for whoever looks into the file.
        end_of_turn: id of the token that ends an answer.
        tokenizer: folder of another tokenizer than the checkpoint's, such as one with a chat template.

    Raises:
        UserError: llama.cpp could not run it, or is not installed.
    """
    config = read_config(checkpoint)
    known, named = architecture_of(config), tensor_names(config)
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[known.arch])
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[quantization])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_settings(writer, config)
    write_vocabulary(writer, load_tokenizer(tokenizer or checkpoint), config.vocab_size, end_of_turn)
    if entries := suppressed_entries(checkpoint):
        writer.add_array(SUPPRESSED, entries)
    with ExitStack() as opened:
        parts = {named(key): (key, part) for key, part in weights_of(checkpoint, opened)}
        held = {}
        for target, (key, part) in parts.items():
            shape = tuple(known.weight(key, torch.empty(part.get_shape(), device="meta"), config).shape)
            held[target] = held_as(target, shape, quantization, config.num_hidden_layers, OUTPUT not in parts)
            _announce(writer, target, shape, held[target])
        extra = known.more(config)
        for target, tensor in extra.items():
            _announce(writer, target, tuple(tensor.shape), GGMLQuantizationType.F32)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with progress_bar("gguf", total=len(parts), unit="weight") as bar:
            for target, (key, part) in parts.items():
                weight = known.weight(key, part[:].float(), config).contiguous()
                writer.write_tensor_data(as_held(weight.numpy(), held[target]))
                bar.update()
        for tensor in extra.values():
            writer.write_tensor_data(tensor.numpy())
    writer.close()


def _announce(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], held: GGMLQuantizationType) -> None:
    writer.add_tensor_info(name, shape, np.dtype(np.float32), bytes_of(shape, held), held)
