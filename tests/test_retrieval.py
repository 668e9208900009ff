"""Retrieval: statements with their headings, found by their words, and put where the model reads them."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.data import Example, Message, conversation, load_splits, with_other_figures
from workbench.errors import UserError
from workbench.recipe import load_recipe
from workbench.retrieval import Index, read_passages
from workbench.retrieval.index import terms

ROOT = Path(__file__).parent.parent
SHEET = """# Sheet

Text that is no item.

## card_lost: Lost card
- Freeze the card in the app,
  or by phone.
- A replacement is free.

## Fees
- A transfer abroad costs €4.
"""


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    path = tmp_path / "sheet.md"
    path.write_text(SHEET, encoding="utf-8")
    return path


def test_every_item_is_a_passage_with_its_heading(sheet: Path) -> None:
    passages = read_passages(sheet)
    assert [(p.section, p.title) for p in passages] == [("card_lost", "Lost card")] * 2 + [("Fees", "Fees")]
    assert str(passages[0]) == "Lost card: Freeze the card in the app, or by phone."


def test_the_nearest_come_first_and_strangers_not_at_all(sheet: Path) -> None:
    index = Index(read_passages(sheet))
    assert [p.section for p in index.nearest("Transferring money: what are the costs?", 3)] == ["Fees"]
    assert index.nearest("I lost my cards!", 1)[0].section == "card_lost"
    assert index.nearest("zebra", 3) == []
    assert index.nearest("is it the?", 3) == []


def test_terms_of_both_writings() -> None:
    assert list(terms("The customer's cards, 12 of them")) == ["custom", "card", "12"]
    assert list(terms("转账费App")) == ["转账", "账费", "app"]


def test_what_was_found_stands_in_the_system_message() -> None:
    row = {
        "id": "1",
        "messages": [
            {"role": "user", "content": "A?"},
            {"role": "assistant", "content": "B."},
            {"role": "user", "content": "C?"},
        ],
    }
    first, last = conversation(row, system="Bank", ground=lambda messages: f"found for {messages[-1]['content']}")
    assert first.prompt[0] == {"role": "system", "content": "Bank\nfound for A?"}
    assert last.prompt[0] == {"role": "system", "content": "Bank\nfound for C?"}
    assert [m["content"] for m in last.prompt[1:]] == ["A?", "B.", "C?"]
    assert (first.completion, last.completion) == ("B.", "")
    bare, _ = conversation(row, ground=lambda messages: "found")
    assert bare.prompt[0] == {"role": "system", "content": "found"}
    nothing, _ = conversation(row, ground=lambda messages: "")
    assert [m["role"] for m in nothing.prompt] == ["user"]


def test_most_unseen_questions_find_their_section() -> None:
    from test_finserve_data import questions, read

    index = Index(read_passages(ROOT / "data" / "finserve" / "policy.en.md"))
    rows = read("en")["test_unseen"]
    found = sum(row["topic"] in {p.section for p in index.nearest(questions(row), 5)} for row in rows)
    assert found > 0.75 * len(rows)


def test_the_grounded_recipe_shows_the_model_the_passages() -> None:
    recipe = load_recipe(ROOT / "recipes" / "finserve_grounded.py")
    assert recipe.inference_examples is not None
    asked = {"id": "1", "messages": [{"role": "user", "content": "How much is a safe deposit box?"}]}
    (example,) = recipe.inference_examples(asked)
    assert "safe deposit" in example.prompt[0]["content"].lower()


@pytest.mark.parametrize(("content", "problem"), [("# Title\n\ntext\n", "no list items"), (None, "no document")])
def test_a_document_without_passages_is_told(tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "sheet.md"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=problem):
        read_passages(path)


def grounded(
    question: str, answer: str, context: str = "Boxes: small €90 a year, large €220; opened 8:30 to 17:00."
) -> Example:
    prompt = (Message(role="system", content=context), Message(role="user", content=question))
    return Example(id="box", prompt=prompt, completion=answer)


def test_figures_are_replaced_in_context_and_answer_alike() -> None:
    before = grounded("What is a large box?", "A large one is €220 a year, a small one €90.")
    after = with_other_figures(before)
    assert after == with_other_figures(before)
    assert after.prompt[1] == before.prompt[1]
    small, large, *times = re.findall(r"\d+(?::\d+)?", after.prompt[0]["content"])
    assert after.completion == f"A large one is €{large} a year, a small one €{small}."
    assert (large, small) != ("220", "90")
    assert len({small, large, *times}) == 4
    assert (len(large), large[-1], small[-1]) == (3, "0", "0")
    assert with_other_figures(replace(before, references=("It is €220.",))).references == (f"It is €{large}.",)
    assert [time[-3:] for time in times] == [":30", ":00"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is a box?", "Please ask at a branch."),  # nothing to read
        ("What are two large boxes?", "Two are €440."),  # worked out
        ("Is my box for €90 a small one?", "Yes, €90 is the price of the small one."),  # the user's own figure
    ],
)
def test_what_would_no_longer_be_true_keeps_its_figures(question: str, answer: str) -> None:
    example = grounded(question, answer)
    assert with_other_figures(example) == example


def test_a_grounded_model_is_trained_on_another_sheet_and_tested_on_the_real_one() -> None:
    recipe = load_recipe(ROOT / "recipes" / "finserve_grounded.py")
    splits = load_splits(recipe.data, recipe.row_to_examples)
    sheet = (ROOT / "data" / "finserve" / "policy.en.md").read_text(encoding="utf-8")
    unlike = {
        split: sum(
            any(
                line.partition(": ")[2] not in " ".join(sheet.split())
                for line in e.prompt[0]["content"].split("\n")[1:]
            )
            for e in examples
        )
        for split, examples in splits.examples.items()
    }
    assert unlike["train"] > 800
    assert unlike["test"] == unlike["test_unseen"] == unlike["validation"] == 0
