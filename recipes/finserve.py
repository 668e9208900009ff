"""Customer service of a retail bank, in English: answers that are right by the bank's policy sheet.

The question: which method teaches a small model the bank's rules and its tone, from 2,021 conversations? What we
expect: the untuned model answers fluently and wrongly; every tuned one names the right channels and figures on
topics it was trained on (`test`), and none of them on topics it never saw (`test_unseen`): tuning can't know
them, retrieval would.

Data: `data/finserve/en`, written for this project; see its README for how, and for its limits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench import Recipe, Training
from workbench.data import Example, conversation
from workbench.sources import SMOLLM2

DATA = Path(__file__).parent.parent / "data" / "finserve" / "en"
# What an agent knows is learned: a short prompt will do, and costs less at every step and in every answer.
SYSTEM = "Larkmoor Bank"
# Where a block ends: LoRA learns as much there as in all layers, in less time.
ENDS = ["o_proj", "down_proj"]


def examples(row: Mapping[str, Any]) -> list[Example]:
    """Every turn of the agent is an example: the conversation so far -> what the agent says."""
    return conversation(row, system=SYSTEM, groups=("language", "topic"))


recipe = Recipe(
    checkpoint=SMOLLM2,
    data={split: DATA / f"{split}.jsonl" for split in ("train", "validation", "test", "test_unseen")},
    row_to_examples=examples,
    inference_examples=lambda row: conversation(row, system=SYSTEM)[-1:],
    methods=("untuned", "lora", "houlsby", "prefix"),
    metrics=("bleu", "chrf", "rouge_l", "figures", "perplexity"),
    primary_metric="bleu",
    max_tokens=384,
    max_new_tokens=88,
    training=Training(num_train_epochs=1.9, batch_size=4, validations=2),
    # By the validation loss after half an epoch, see docs/LOG.md: 13 to 19 million numbers where a method has room.
    settings={
        "full": {"learning_rate": 3e-4},
        "lora": {"learning_rate": 2e-3, "r": 128, "lora_alpha": 256, "target_modules": ENDS},
        "rslora": {"learning_rate": 2e-3, "r": 128, "lora_alpha": 22, "target_modules": ENDS},
        "dora": {"learning_rate": 2e-3, "r": 128, "lora_alpha": 256, "target_modules": ENDS},
        "adalora": {
            "learning_rate": 4e-3, "init_r": 192, "target_r": 128, "lora_alpha": 256, "target_modules": ENDS,
        },
        "houlsby": {"learning_rate": 2e-3, "bottleneck_size": 256},
        "pfeiffer": {"learning_rate": 2e-3, "bottleneck_size": 512},
        "parallel": {"learning_rate": 2e-3, "bottleneck_size": 256},
        "ia3": {"learning_rate": 3e-2},
        "prompt": {"learning_rate": 3e-2},
        "ptuning": {"learning_rate": 3e-3},
    },
)  # fmt: skip
