"""Tiny checkpoints made on the spot: random weights, a byte-level vocabulary, no network."""

import json
from pathlib import Path
from typing import Any

import torch

from workbench.results import CheckpointInfo, DataInfo, ExportRecord, MetricInfo, Results, RunRecord, Score

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As small as the models.
SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"r": 4} for name in ("lora", "rslora", "dora")},
    "adalora": {"init_r": 6, "target_r": 4},
    **{name: {"bottleneck_size": 4} for name in ("houlsby", "pfeiffer", "parallel")},
    **{name: {"num_virtual_tokens": 4} for name in ("prefix", "prompt", "ptuning")},
}
# The GPT line and what descends from it.
KINDS = ("gpt1", "gpt2", "gpt-neo", "gpt-j", "gpt-neox", "gpt-oss", "llama", "qwen3", "gemma3")
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


def make_config(kind: str, vocabulary: int = 320, width: int = 32, head_dim: int = 8, **more: Any) -> Any:
    """The configuration of a tiny model of an architecture of `KINDS`, with `more` settings of its own."""
    import transformers as t

    shared: dict[str, Any] = {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **more}
    small = {"n_embd": width, "n_layer": 2, "n_head": 4, "n_positions": 256}
    usual = {
        "hidden_size": width, "intermediate_size": width * 3 // 2, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 256,
    }  # fmt: skip
    grouped = {**usual, "num_key_value_heads": 2, "head_dim": head_dim}
    untied = {"tie_word_embeddings": False, **shared}
    configs = {
        "gpt1": lambda: t.OpenAIGPTConfig(**small, **shared),
        "gpt2": lambda: t.GPT2Config(**small, **shared),
        "gpt-neo": lambda: t.GPTNeoConfig(
            hidden_size=width, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
            window_size=16, max_position_embeddings=256, **shared,
        ),
        "gpt-j": lambda: t.GPTJConfig(**small, rotary_dim=4, **untied),
        "gpt-neox": lambda: t.GPTNeoXConfig(**{"rotary_pct": 0.5, **usual, **untied}),
        "gpt-oss": lambda: t.GptOssConfig(
            **grouped, num_local_experts=4, num_experts_per_tok=2, sliding_window=16, **untied
        ),
        "llama": lambda: t.LlamaConfig(**{**grouped, "head_dim": None, "tie_word_embeddings": True, **shared}),
        "qwen3": lambda: t.Qwen3Config(**grouped, tie_word_embeddings=True, **shared),
        "gemma3": lambda: t.Gemma3TextConfig(**grouped, sliding_window=16, **shared),
    }  # fmt: skip
    return configs[kind]()


def make_model(kind: str, vocabulary: int = 320, width: int = 32, seed: int = 1, **more: Any) -> Any:
    """A random model whose outputs depend strongly on every weight."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(make_config(kind, vocabulary, width, **more))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval().requires_grad_(False)


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


def write_splits(folder: Path) -> None:
    """Data for `recipe_text`."""
    data = {"train": rows(24), "validation": rows(6, 100), "test": rows(8, 200), "test_unseen": rows(4, 300)}
    for split, values in data.items():
        write_rows(folder / f"{split}.jsonl", values)


def recipe_text(checkpoint: Path, data: Path) -> str:
    """A recipe on a tiny checkpoint and a few rows."""
    return f'''"""A tiny job."""
from workbench import Recipe, Training
from workbench.data import conversation

recipe = Recipe(
    checkpoint={str(checkpoint)!r},
    data={{s: {str(data)!r} + f"/{{s}}.jsonl" for s in ("train", "validation", "test", "test_unseen")}},
    row_to_examples=lambda row: conversation(row, groups=("language",)),
    methods=("untuned", "lora"),
    metrics=("bleu", "figures", "perplexity"),
    primary_metric="bleu",
    max_tokens=128,
    max_new_tokens=16,
    training=Training(num_train_epochs=2, batch_size=8, validations=2),
    settings={json.dumps(SETTINGS)},
)
'''


def metric_info(name: str, higher_is_better: bool = True) -> MetricInfo:
    """What a metric of that name says of itself in results."""
    return MetricInfo(title=name, summary="", higher_is_better=higher_is_better, worst=None, best=None, chance=None)


def run_record(method: str, metrics: dict[str, Score], **more: Any) -> RunRecord:
    """A record of a method that was carried to its end."""
    values: dict[str, Any] = {
        "seed": 0, "bits": 32, "status": "done", "trainable_parameters": 1, "total_parameters": 1,
        "train_seconds": 1.0, "evaluation_seconds": 1.0, "peak_memory_bytes": 1, "adapter_bytes": 1,
        "export": ExportRecord(merged=False, reason="not tried"), **more,
    }  # fmt: skip
    return RunRecord(method=method, metrics=metrics, **values)


def tiny_results(**more: Any) -> Results:
    """Results of a run that is told of in `more`."""
    values: dict[str, Any] = {
        "recipe": "tiny", "recipe_sha256": None, "headline": "bleu", "evaluated_splits": ["test"], "metrics": {},
        "checkpoint": CheckpointInfo(name="tiny", licence="none", sha256=None), "environment": {},
        "data": DataInfo(splits={}, repeated=0, leaked=0), **more,
    }  # fmt: skip
    return Results(**values)


def write_recipe(folder: Path, more: str = "") -> Path:
    """A recipe on a tiny checkpoint and a few rows, all of it in `folder`.

    Args:
        more: Python behind the recipe.
    """
    make_model("llama").save_pretrained(folder / "base")
    make_tokenizer().save_pretrained(folder / "base")
    write_splits(folder)
    path = folder / "tiny.py"
    path.write_text(recipe_text(folder / "base", folder) + more, encoding="utf-8")
    return path


def flip_a_bit(file: Path) -> None:
    """As a disk might."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
