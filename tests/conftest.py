"""Tiny checkpoints made on the spot: random weights, a byte-level vocabulary, no network."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WORKBENCH_CACHE"] = "/nonexistent: tests do not use the cache"

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = [
    "What does a transfer cost?",
    "A transfer costs €4 by phone, 2% abroad.",
    "你好，转账要多少钱？",
    "It takes 5 business days.",
]


def make_tokenizer() -> Any:
    """A byte-level BPE with ChatML's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        chat_template=CHATML,
    )


def make_model(kind: str, vocabulary: int = 320) -> Any:
    """A random model whose outputs depend strongly on every weight."""
    from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig

    shared = {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = {
        "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **shared),
        "llama": lambda: LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, **shared,
        ),
        "gemma3": lambda: Gemma3TextConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=256, sliding_window=16, **shared,
        ),
    }[kind]()  # fmt: skip
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval().requires_grad_(False)


@pytest.fixture
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(params=["gpt2", "llama"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(kind: str) -> Any:
    return make_model(kind)


@pytest.fixture
def checkpoint(tmp_path: Path, kind: str) -> Path:
    """A checkpoint folder of a tiny model."""
    folder = tmp_path / f"tiny-{kind}"
    make_model(kind).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Conversations of one turn, all different."""
    return [
        {
            "id": f"row-{number}",
            "language": "en",
            "messages": [
                {"role": "user", "content": f"What does transfer {number} cost?"},
                {"role": "assistant", "content": f"It costs €{number + 1}, and takes {number % 5 + 1} days."},
            ],
        }
        for number in range(start, start + count)
    ]


def write_rows(path: Path, values: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


@pytest.fixture
def recipe_file(tmp_path: Path, checkpoint: Path) -> Path:
    """A recipe on a tiny checkpoint and a few rows."""
    data = {"train": rows(24), "validation": rows(6, 100), "test": rows(8, 200), "test_unseen": rows(4, 300)}
    for split, values in data.items():
        write_rows(tmp_path / f"{split}.jsonl", values)
    path = tmp_path / "tiny.py"
    path.write_text(
        f'''"""A tiny job."""
from workbench import Recipe, Training
from workbench.data import conversation

recipe = Recipe(
    checkpoint={str(checkpoint)!r},
    data={{s: {str(tmp_path)!r} + f"/{{s}}.jsonl" for s in ("train", "validation", "test", "test_unseen")}},
    examples=lambda row: conversation(row, groups=("language",)),
    methods=("untuned", "lora"),
    metrics=("bleu", "figures", "perplexity"),
    headline="bleu",
    max_tokens=128,
    max_new_tokens=16,
    training=Training(epochs=2, batch_size=8, validations=2),
    settings={{"prefix": {{"num_virtual_tokens": 4}}, "houlsby": {{"bottleneck_size": 4}}, "lora": {{"r": 4}}}},
)
''',
        encoding="utf-8",
    )
    return path
