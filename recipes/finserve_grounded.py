"""Customer service of a retail bank, grounded: the passages of the policy sheet nearest to the question are in the
prompt.

The question: does a model that is given the policy answer what it was never trained on? What we expect: much better
figures on `test_unseen` than in `finserve`, whose models can't know those topics; on `test` a gain as far as the
search finds the right passages. A model that knows the sheet by heart doesn't read it: so in training the figures of
passages and answers are others than the sheet's, and the passages hold the answer.

Data: `data/finserve/en` and its policy sheet, written for this project; see its README for how, and for its limits.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench import Recipe, Training
from workbench.data import Example, Message, conversation, with_other_figures
from workbench.retrieval import Index, read_passages
from workbench.sources import SMOLLM2

DATA = Path(__file__).parent.parent / "data" / "finserve"
SYSTEM = "Larkmoor Bank"
PASSAGES = 4
ENDS = ["o_proj", "down_proj"]
policy = Index(read_passages(DATA / "policy.en.md"))


def ground(messages: Sequence[Message], answer: str = "") -> str:
    """The passages nearest to what the customer said so far, the last question counting twice, and to the answer."""
    asked = [message["content"] for message in messages if message["role"] == "user"]
    return "\n".join(map(str, policy.nearest(" ".join([*asked, asked[-1], answer]), PASSAGES)))


def training(row: Mapping[str, Any]) -> list[Example]:
    """For training: passages that hold the answer, and other figures in both: reading helps, memory fails."""
    answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]

    def found(messages: Sequence[Message]) -> str:
        return ground(messages, answers[sum(message["role"] == "assistant" for message in messages)])

    turns = conversation(row, system=SYSTEM, groups=("language", "topic"), ground=found)
    return [with_other_figures(example) for example in turns]


def examples(row: Mapping[str, Any]) -> list[Example]:
    """Every turn of the agent is an example: passages and the conversation so far -> what the agent says."""
    return conversation(row, system=SYSTEM, groups=("language", "topic"), ground=ground)


recipe = Recipe(
    checkpoint=SMOLLM2,
    data={split: DATA / "en" / f"{split}.jsonl" for split in ("train", "validation", "test", "test_unseen")},
    row_to_examples={"train": training, **dict.fromkeys(("validation", "test", "test_unseen"), examples)},
    inference_examples=lambda row: conversation(row, system=SYSTEM, ground=ground)[-1:],
    methods=("untuned", "lora"),
    metrics=("bleu", "chrf", "rouge_l", "figures", "perplexity"),
    primary_metric="bleu",
    max_tokens=640,
    max_new_tokens=88,
    training=Training(num_train_epochs=1.5, batch_size=4, validations=2),
    settings={
        "lora": {"learning_rate": 2e-3, "r": 128, "lora_alpha": 256, "target_modules": ENDS},
        "parallel": {"learning_rate": 2e-3, "bottleneck_size": 256},
    },
)
