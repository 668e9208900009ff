"""Retrieval: statements with their headings, found by their words, and put where the model reads them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.data import Example, Message, conversation, load_splits, with_other_figures
from workbench.errors import UserError
from workbench.evaluation.metrics.figures import figures
from workbench.recipe import load_recipe
from workbench.retrieval import Index, Passage, SectionFinder, read_passages, read_sections
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


SECTIONS = [
    Passage(section="fees", title="Fees", text="A transfer abroad costs 4 euros."),
    Passage(section="cards", title="Lost cards", text="A card is frozen at once, a replacement is free."),
    Passage(section="boxes", title="Safe deposit boxes", text="A small box is 90 euros a year."),
]
ASKED = [
    ("what will you take for sending money to my aunt", "fees"),
    ("is sending money dear?", "fees"),
    ("somebody nicked my wallet", "cards"),
    ("my wallet was nicked on the bus", "cards"),
]


@pytest.mark.parametrize(
    ("question", "section"),
    [
        ("I want to send money to Peru, what will you take?", "fees"),  # no word of its section
        ("They nicked my wallet!", "cards"),
        ("What is a small deposit box?", "boxes"),  # nobody has asked about it before
        ("nicked my wallet with the key of my deposit box", "boxes"),  # where the words say so, the new one
        # A known one is not searched for by its words.
        ("What does a transfer cost, my wallet having been nicked?", "cards"),
    ],
)
def test_known_sections_are_found_by_their_questions_and_new_ones_by_their_words(question: str, section: str) -> None:
    found = SectionFinder(SECTIONS, ASKED).find(question)
    assert found.section == section
    assert found == SectionFinder(SECTIONS, ASKED).find(question)


def test_something_is_always_found() -> None:
    assert SectionFinder(SECTIONS, ASKED).find("xyzzy") in SECTIONS


def test_sections_are_passages_of_all_their_items(sheet: Path) -> None:
    cards, fees = read_sections(sheet)
    assert str(cards) == "Lost card: Freeze the card in the app, or by phone. A replacement is free."
    assert (fees.section, fees.text) == ("Fees", "A transfer abroad costs €4.")


def test_what_was_asked_about_a_section_comes_the_nearest_first() -> None:
    finder = SectionFinder(SECTIONS, ASKED)
    assert finder.asked_before("nicked on a bus", "cards") == [3, 2]
    assert finder.asked_before("sending money", "fees")[0] in (0, 1)
    assert finder.asked_before("what is a box?", "boxes") == []


def test_sections_are_told_apart_in_chinese() -> None:
    sections = [Passage(section=name, title=name, text=name) for name in ("转账", "挂失", "保险箱")]
    asked = [("给国外汇钱贵不贵", "转账"), ("汇钱要多久", "转账"), ("卡丢了", "挂失"), ("钱包和卡都丢了怎么办", "挂失")]
    finder = SectionFinder(sections, asked)
    questions = ("我的卡丢了", "汇钱给我妈", "保险箱多少钱")
    assert [finder.find(question).section for question in questions] == ["挂失", "转账", "保险箱"]


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ([*ASKED, ("Hello", "greetings")], "sections that the document doesn't have: greetings"),
        (ASKED[:2], "questions of 1 section\\(s\\) are known"),
        ([], "questions of 0 section\\(s\\) are known"),
    ],
)
def test_a_finder_says_what_it_lacks(asked: list[tuple[str, str]], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        SectionFinder(SECTIONS, asked)


def test_a_finder_takes_no_statements_for_sections(sheet: Path) -> None:
    with pytest.raises(UserError, match="several passages belong to one section"):
        SectionFinder(read_passages(sheet), [("a", "card_lost"), ("b", "Fees")])


# The sections as prompts have them.
POLICY = set(map(str, read_sections(ROOT / "data" / "finserve" / "policy.en.md")))


@pytest.fixture(scope="module")
def finserve() -> Any:
    recipe = load_recipe(ROOT / "recipes" / "finserve.py")
    return recipe, load_splits(recipe.data, recipe.row_to_examples).examples


def test_a_grounded_model_is_trained_on_another_sheet_and_tested_on_the_real_one(finserve: Any) -> None:
    _, splits = finserve
    unlike = {split: sum(read(example)[0] not in POLICY for example in splits[split]) for split in splits}
    assert unlike["train"] > 1000
    assert unlike["test"] == unlike["test_unseen"] == unlike["validation"] == 0


def read(example: Example) -> tuple[str, list[str]]:
    """What stands below the system message's first line: the section, and lines of earlier questions and answers."""
    _, section, *earlier = example.prompt[0]["content"].split("\n")
    return section, earlier


def test_figures_of_earlier_answers_stay_true_in_training(finserve: Any) -> None:
    _, splits = finserve
    changed = 0
    for example in splits["train"]:
        section, earlier = read(example)
        if section in POLICY:
            continue
        changed += 1
        for line in earlier:
            assert set(figures(line)) <= (set(figures(section)) if line.startswith("A: ") else set()), example.id
    assert changed > 1000


def test_finserve_shows_answers_to_other_questions_than_the_one_that_is_asked(finserve: Any) -> None:
    _, splits = finserve
    alone = 0
    for example in [*splits["train"], *splits["test"]]:
        _, earlier = read(example)
        alone += not earlier
        assert f"Q: {example.prompt[-1]['content']}" not in earlier
        assert sum(line.startswith("A: ") for line in earlier) in (0, 2)
    assert 0.2 < alone / len(splits["train"]) < 0.3
    new = [example for example in splits["test_unseen"] if is_new(example)]
    assert len(new) > 40
    assert not any(earlier for _, earlier in map(read, new))


def is_new(example: Example) -> bool:
    """Whether the section that was found is one that nobody was trained on."""
    return read(example)[0].startswith(("Safe deposit", "Student account", "Travel insurance", "Coins and"))


def test_finserve_finds_most_sections_and_those_that_nobody_was_trained_on_too(finserve: Any) -> None:
    _, splits = finserve
    right = {
        split: sum(e.groups["section"] == "right" for e in splits[split]) / len(splits[split])
        for split in ("validation", "test", "test_unseen")
    }
    assert right["validation"] > 0.6
    assert right["test"] > 0.65
    assert right["test_unseen"] > 0.75


def test_chat_is_given_the_section_that_was_found(finserve: Any) -> None:
    recipe, _ = finserve
    messages = [{"role": "user", "content": "What does a small safe deposit box cost?"}]
    (asked,) = recipe.inference_examples({"id": "chat", "messages": messages})
    assert read(asked)[0].startswith("Safe deposit boxes: Small box €90 a year")


def test_tools_stay_at_the_first_message_when_passages_are_found() -> None:
    tools = [{"type": "function", "function": {"name": "balance"}}]
    user = {"role": "user", "content": "How much have I?"}
    row = {"id": "1", "messages": [user, {"role": "assistant", "content": "12"}], "tools": tools}
    for system, said in ((None, "Ask."), ("Bank", "Bank\nAsk.")):
        (example,) = conversation(row, system=system, ground=lambda messages: "Ask.")
        assert example.prompt == ({"role": "system", "content": said, "tools": tools}, user)
