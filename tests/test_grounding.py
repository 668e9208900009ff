"""Grounding: a model chooses what to read, and that stands in the prompt of its answer, wherever it answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny import recipe_text, write_rows
from workbench import Grounding, UserError
from workbench.chat.session import ChatSession
from workbench.data import Example, choice, conversation, with_context
from workbench.evaluation.grounding import grounded
from workbench.generation.language_model import ChoiceLikelihoods
from workbench.generation.sampling import Sampling
from workbench.run.__main__ import main
from workbench.run.folder import RunFolder
from workbench.run.tuned import load_tuned

FEES, CARDS = "Fees", "Lost cards"
QUESTIONS = ("what does it cost", "my card is gone")
RECIPE = """
from dataclasses import replace
from workbench import Grounding
from workbench.data import choice

PASSAGES = {"Fees": "A transfer costs 4.", "Lost cards": "Freeze it at once."}

def topic(row, question, answer=None):
    return choice({"id": row["id"] + "-topic"}, question, PASSAGES, answer, system="Topic", task="topic")

def topics(row):
    return [topic(row, row["messages"][0]["content"], row["topic"])]

def held(row):
    return conversation(row, system="Bank")

def trained(row):
    right = PASSAGES[row["topic"]]
    return [*topics(row), *conversation(row, system="Bank", ground=lambda messages: right)]

recipe = replace(
    recipe,
    row_to_examples={"train": trained, "validation": trained, "test": held, "topics": topics},
    data={**{s: recipe.data[s] for s in ("train", "validation", "test")}, "topics": recipe.data["test"]},
    inference_examples=lambda row: conversation(row, system="Bank")[-1:],
    grounding=Grounding(
        ask=lambda messages: topic({"id": "asked"}, messages[-1]["content"]),
        passages=PASSAGES,
    ),
    metrics=("bleu", "accuracy"),
    max_tokens=160,
)
"""


class ByWord:
    """Finds a choice likely whose first word stands in the question, whatever a real model would say."""

    def prompt(self, conversation: Any) -> str:
        return str(conversation)

    def loglikelihood(
        self, conversations: Sequence[Any], choices: Sequence[Sequence[str]], **_: Any
    ) -> list[ChoiceLikelihoods]:
        return [
            ChoiceLikelihoods(
                logprobs=np.array([0.0 if one.split()[0].lower() in asked[-1]["content"] else -9.0 for one in given]),
                tokens=np.ones(len(given), dtype=int),
            )
            for asked, given in zip(conversations, choices, strict=True)
        ]


def asked(messages: Sequence[Any]) -> Example:
    return choice({"id": "x"}, messages[-1]["content"], (FEES, CARDS), task="topic")


def test_what_was_chosen_stands_in_the_prompts_of_what_is_written() -> None:
    (fees,) = conversation({"id": "1", "messages": [{"role": "user", "content": "what fees?"}]}, system="Bank")
    (lost,) = conversation({"id": "2", "messages": [{"role": "user", "content": "lost it"}]})
    chosen = choice({"id": "3"}, "fees or lost?", (FEES, CARDS), task="topic")
    grounding = Grounding(ask=asked, passages={FEES: "It costs 4.", CARDS: "Freeze it."})
    found = grounded(ByWord(), grounding, {}, [fees, chosen, lost])  # type: ignore[arg-type]
    assert [example.id for example in found] == ["1", "3#topic", "2"]
    assert found[0].prompt[0] == {"role": "system", "content": "Bank\nIt costs 4."}
    assert found[0].prompt[1:] == fees.prompt[1:]
    assert found[1] == chosen
    assert found[2].prompt == ({"role": "system", "content": "Freeze it."}, *lost.prompt)


def test_what_a_search_finds_first_stands_below_the_models_choice() -> None:
    (fees,) = conversation({"id": "1", "messages": [{"role": "user", "content": "what fees?"}]})
    passages = {FEES: "It costs 4.", CARDS: "Freeze it.", "Coins": "Free.", "Boxes": "60 a year."}

    def ask(messages: Sequence[Any]) -> Example:
        return choice({"id": "x"}, messages[-1]["content"], passages, task="topic")

    for search, text in (
        (["Boxes", CARDS], "It costs 4.\n60 a year."),
        ([FEES, CARDS], "It costs 4.\nFreeze it."),
        (["stranger", "Coins"], "It costs 4.\nFree."),
        ([FEES], "It costs 4."),
        ([], "It costs 4."),
    ):
        grounding = Grounding(ask=ask, passages=passages, search=lambda messages, search=search: search)  # type: ignore[misc]
        assert grounded(ByWord(), grounding, {}, [fees])[0].prompt[0]["content"] == text  # type: ignore[arg-type]


def test_tools_stay_at_the_first_message() -> None:
    tools = [{"type": "function", "function": {"name": "balance"}}]
    user: Any = {"role": "user", "content": "How much have I?", "tools": tools}
    assert with_context([user], "Ask.")[0] == {"role": "system", "content": "Ask.", "tools": tools}
    system: Any = {"role": "system", "content": "Bank", "tools": tools}
    assert with_context([system, user], "Ask.")[0] == {"role": "system", "content": "Bank\nAsk.", "tools": tools}


def rows(split: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{split}-{number}",
            "topic": (FEES, CARDS)[number % 2],
            "messages": [
                {
                    "role": "user",
                    "content": f"{split}: {('what does it cost', 'my card is gone')[number % 2]} {number}?",
                },
                {"role": "assistant", "content": ("It costs 4.", "Freeze it at once.")[number % 2]},
            ],
        }
        for number in range(count)
    ]


@pytest.fixture
def recipe(checkpoint: Path, tmp_path: Path) -> Path:
    for split, count in (("train", 24), ("validation", 8), ("test", 10)):
        write_rows(tmp_path / f"{split}.jsonl", rows(split, count))
    path = tmp_path / "grounds.py"
    path.write_text(recipe_text(checkpoint, tmp_path) + RECIPE)
    return path


def test_a_run_answers_from_what_its_model_chose(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    # A soft prompt becomes words of the merged checkpoint: its prompts are written anew.
    assert main([str(recipe), "--methods", "untuned,lora,prompt", "--bits", "32", "--out", str(out)]) == 0
    passages = {FEES: "A transfer costs 4.", CARDS: "Freeze it at once."}
    records = {record["method"]: record for record in json.loads((out / "results.json").read_text())["runs"]}
    for name in ("untuned", "lora", "prompt"):
        record = records[name]
        assert record["status"] == "done", record["error"]
        # The proof is held on the prompts that the model was given, passages and all.
        assert record["export"]["merged"] == (name != "untuned"), record["export"]
        answers = {row["id"]: row for row in map(json.loads, (out / name / "predictions.jsonl").open())}
        assert len(answers) == 20
        for number in range(10):
            chosen = answers[f"test-{number}-topic#topic"]["prediction"]
            prompt = answers[f"test-{number}"]["prompt"]
            assert passages[chosen] in prompt
            assert not any(text in prompt for choice, text in passages.items() if choice != chosen)
    tuned = load_tuned(RunFolder.open(out), "lora")
    session = ChatSession(tuned, Sampling(max_new_tokens=4))
    question = rows("test", 1)[0]["messages"][0]["content"]
    list(session.ask(question))
    before = {row["id"]: row for row in map(json.loads, (out / "lora" / "predictions.jsonl").open())}
    assert session.context() == f"Bank\n{passages[before['test-0-topic#topic']['prediction']]}"
    asked = conversation(rows("test", 1)[0], system="Bank")
    assert tuned.write(asked) == [before["test-0"]["prediction"]]
    assert tuned.generate(asked[0].prompt) == before["test-0"]["prediction"]
    assert "".join(tuned.stream(asked[0].prompt)) == before["test-0"]["prediction"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ('passages={"Fees": "4."}', "passages has none for the choices 'Lost cards'"),
        ("passages={}", "passages is empty"),
        ('passages={name: "long " * 400 for name in PASSAGES}', "longest passages of"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    recipe: Path, changed: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(recipe.read_text().replace("passages=PASSAGES", changed))
    assert main([str(recipe), "--methods", "lora", "--bits", "32"]) == 2
    assert problem in capsys.readouterr().err


def test_a_choice_that_validation_does_not_know_is_told(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = 'topic({"id": "asked"}, messages[-1]["content"])'
    wider = 'choice({"id": "asked"}, messages[-1]["content"], [*PASSAGES, "New"], system="Topic", task="topic")'
    text = recipe.read_text()
    assert asked in text
    recipe.write_text(text.replace(asked, wider).replace("passages=PASSAGES", 'passages={**PASSAGES, "New": "?"}'))
    assert main([str(recipe), "--methods", "lora", "--bits", "32"]) == 2
    assert (
        "ask names choices that validation doesn't, so that they can't be calibrated: 'New'" in capsys.readouterr().err
    )


def test_a_task_that_is_not_trained_is_told(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text(recipe.read_text().replace("return [*topics(row), *conv", "return [*conv"))
    assert main([str(recipe), "--methods", "lora", "--bits", "32"]) == 2
    assert "no examples with choices of" in capsys.readouterr().err


def test_no_passages_are_no_grounding() -> None:
    with pytest.raises(UserError, match="passages is empty"):
        Grounding(ask=asked, passages={})
