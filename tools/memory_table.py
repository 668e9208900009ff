"""The table of `docs/proof.md` that says what models of usual sizes hold at each stage; nothing is downloaded.

python tools/memory_table.py
"""

from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, GptOssConfig, LlamaConfig

from workbench.console import bytes_text
from workbench.methods import find_method
from workbench.models import SHIPPED, attach, precision_of, size
from workbench.run.memory import stage_bytes

SIZES = {
    "1B (Llama 3.2)": LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=True,
    ),
    "7B (Llama 2)": LlamaConfig(),
    "20B (gpt-oss)": GptOssConfig(num_hidden_layers=24, num_local_experts=32),
}  # fmt: skip
SHIPS = ((4, "bfloat16"), (16, "bfloat16"), (16, "float32"))
STAGES = ("training", "scoring", "merging", "proving", "disk")


def row(cells: Sequence[str]) -> str:
    """A row of a table of Markdown."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    print(row(["base", "held while training", "shipped in", *STAGES]))
    print(row(["---"] * (3 + len(STAGES))))
    method = find_method("lora")
    for name, config in SIZES.items():
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(config)
            shapes = {key: tuple(weight.shape) for key, weight in base.named_parameters()}
            trainable = size(attach(base, method, {"r": 16}, [0], seed=0)).trainable
        for bits, shipped in SHIPS:
            precision = precision_of(method, bits, mergeable=True, shipped_bits=SHIPPED[shipped])
            found = stage_bytes(shapes, method, precision, trainable, SHIPPED[shipped])
            print(row([name, f"{bits} bits", shipped, *(bytes_text(getattr(found, stage)) for stage in STAGES)]))


if __name__ == "__main__":
    main()
