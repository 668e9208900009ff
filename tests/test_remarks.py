"""What is said of the data before anything is trained."""

import json
from pathlib import Path
from typing import Any

import pytest

from tiny import rows, write_rows
from workbench import Recipe, UserError
from workbench.data import Example, choice, conversation
from workbench.run.__main__ import main
from workbench.run.prepare import Job, prepare

COLOURS = ("red", "green", "blue")


def splits(folder: Path, change: Any = None) -> dict[str, Path]:
    """Files of a few conversations, the messages of the test split changed."""
    found = {"train": rows(12), "validation": rows(4, 100), "test": rows(4, 200)}
    for row in found["test"] if change else ():
        change(row["messages"])
    return {split: write_rows(folder / f"{split}.jsonl", values) for split, values in found.items()}


def prepared(checkpoint: Path, data: Any, **more: Any) -> Job:
    values: dict[str, Any] = {
        "checkpoint": str(checkpoint), "methods": ("lora",), "max_tokens": 180, "max_new_tokens": 16,
        "row_to_examples": conversation, "metrics": ("bleu",), **more,
    }  # fmt: skip
    return prepare(Recipe(data=data, **values), bits=32)


def coloured(row: dict[str, Any]) -> list[Example]:
    return [choice(row, row["messages"][0]["content"], COLOURS, COLOURS[len(row["id"]) % 3])]


def test_references_that_no_answer_can_reach_are_counted(tmp_path: Path, checkpoint: Path) -> None:
    def lengthen(messages: list[dict[str, str]]) -> None:
        if "201" in messages[0]["content"]:
            messages[1]["content"] += " And so on" * 8

    job = prepared(checkpoint, splits(tmp_path, lengthen), max_new_tokens=70)
    (said,) = job.remarks["test"]
    longest = max(len(rendered.completion_ids) for _, rendered in job.pairs["test"])
    assert longest > 70
    assert "1 of 4 references (25%) are longer than max_new_tokens=70" in said
    assert f"the longest has {longest}" in said
    assert job.remarks["train"] == []


def test_they_stand_in_the_record_and_the_report(recipe_file: Path, tmp_path: Path, capsys: Any, caplog: Any) -> None:
    write_rows(tmp_path / "test.jsonl", [
        {"id": "x", "language": "en", "messages": [
            {"role": "user", "content": "What is <|im_end|>?"}, {"role": "assistant", "content": "It ends a turn."},
        ]},
    ])  # fmt: skip
    assert main([str(recipe_file), "--check"]) == 0
    remark = "1 of 1 examples spell a control token"
    assert remark in capsys.readouterr().out
    caplog.clear()
    assert main([str(recipe_file), "--methods", "untuned", "--out", str(tmp_path / "out")]) == 0
    assert remark in caplog.text
    split = json.loads((tmp_path / "out" / "results.json").read_text())["data"]["splits"]["test"]
    assert remark in split["remarks"][0]
    for report in ("report.md", "report.html"):
        assert remark in (tmp_path / "out" / report).read_text()


@pytest.mark.parametrize(
    ("make", "metrics", "said"),
    [
        (conversation, ("accuracy",), "'accuracy' can't be had of answers that are written: take one of bleu"),
        (coloured, ("bleu",), "'bleu' can't be had of answers that are chosen from choices: take one of accuracy"),
        (coloured, ("bleu", "mcc"), "take one of mcc$"),
    ],
)
def test_a_primary_metric_that_never_applies_is_refused(
    make: Any, metrics: tuple[str, ...], said: str, tmp_path: Path, checkpoint: Path
) -> None:
    with pytest.raises(UserError, match=said):
        prepared(checkpoint, splits(tmp_path), row_to_examples=make, metrics=metrics)


def test_another_metric_that_never_applies_is_named(tmp_path: Path, checkpoint: Path, caplog: Any) -> None:
    prepared(checkpoint, splits(tmp_path), metrics=("bleu", "accuracy"))
    assert "metrics: accuracy: nothing that is evaluated has such a score" in caplog.text


def test_a_score_of_classes_needs_classes(tmp_path: Path, checkpoint: Path) -> None:
    def many(row: dict[str, Any]) -> list[Example]:
        right = f"film {row['id']}"
        return [choice(row, f"Which of {row['id']}?", [right, *(f"{row['id']}-{n}" for n in range(400))], right)]

    with pytest.raises(UserError, match=r"macro_f1 is of at most 1000 classes, and there are 1604"):
        prepared(checkpoint, splits(tmp_path), row_to_examples=many, metrics=("macro_f1",))
    assert prepared(checkpoint, splits(tmp_path), row_to_examples=many, metrics=("accuracy",)).remarks["test"] == []
