"""predictions.jsonl: what is written is read back, and files of before are, too."""

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.evaluation import Prediction, read_predictions, write_predictions


def prediction(**given: Any) -> Prediction:
    usual = {"id": "1", "split": "test", "prompt": "Q", "reference": "A", "prediction": "B", "nll": 1.5, "tokens": 2}
    return Prediction(**{**usual, **given})


def written(folder: Path, answer: Prediction) -> dict[str, Any]:
    write_predictions(folder, [answer])
    assert read_predictions(folder) == [answer]
    (row,) = map(json.loads, (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines())
    return row


def test_a_row_without_further_references_is_as_it_was(tmp_path: Path) -> None:
    assert list(written(tmp_path, prediction(groups={"language": "en"})).items()) == [
        ("language", "en"), ("id", "1"), ("split", "test"), ("source", ""), ("prompt", "Q"), ("reference", "A"),
        ("prediction", "B"), ("scores", {"reference_nats": 1.5, "reference_tokens": 2}),
    ]  # fmt: skip


def test_all_references_are_written_where_there_are_several(tmp_path: Path) -> None:
    row = written(tmp_path, prediction(references=("C", "D")))
    assert (row["reference"], row["references"]) == ("A", ["A", "C", "D"])


FIXED = ("id", "split", "source", "prompt", "reference", "references", "prediction", "scores")


@pytest.mark.parametrize("name", FIXED)
def test_no_group_is_lost_to_a_field_of_its_name(name: str, tmp_path: Path) -> None:
    row = written(tmp_path, prediction(groups={name: "mail", "language": "en"}, references=("C",)))
    assert (row["groups"], row["language"]) == ({name: "mail"}, "en")


def test_a_group_called_groups_is_kept_with_and_without_others(tmp_path: Path) -> None:
    assert written(tmp_path, prediction(groups={"groups": "x"}))["groups"] == "x"
    assert written(tmp_path, prediction(groups={"groups": "x", "id": "y"}))["groups"] == {"groups": "x", "id": "y"}


def test_a_group_called_references_is_read_from_files_of_before(tmp_path: Path) -> None:
    row = {"references": "old", **written(tmp_path, prediction())}
    (tmp_path / "predictions.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert read_predictions(tmp_path) == [prediction(groups={"references": "old"})]
