"""`python -m workbench.compare`: finished runs beside each other, or refused with the reason."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.compare.__main__ import main
from workbench.results import read_results
from workbench.run.__main__ import main as run_main

Compare = Callable[..., tuple[int, str, str]]


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Compare:
    def carried_out(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return carried_out


def begin(recipe: Path, out: Path, *more: object) -> Path:
    arguments = [recipe, "--methods", "untuned", "--out", out, *more]
    assert run_main([str(argument) for argument in arguments]) == 0
    return out


def test_runs_are_paired_over_the_examples_that_both_scored(
    recipe_file: Path, tmp_path: Path, compare: Compare
) -> None:
    whole, part = (
        begin(recipe_file, tmp_path / "whole"),
        begin(recipe_file, tmp_path / "part", "--bits", 8, "--limit", 4),
    )
    lines = (part / "untuned" / "predictions.jsonl").read_text().splitlines()
    code, printed, _ = compare(whole, part, "--out", tmp_path / "both")
    assert code == 0
    assert "| whole/untuned " in printed
    assert "part/untuned against whole/untuned" in printed
    assert "the bits of the base" in printed
    found = read_results(tmp_path / "both" / "results.json")
    tested = [row for line in lines if (row := json.loads(line))["split"] == found.compared_split]
    assert len(tested) == 4
    assert "Compared on the 4 examples of test that all runs scored; one scored 8." in printed
    (pair,) = found.comparisons
    assert pair.items == len({row["source"] or row["id"] for row in tested})
    part_alone = read_results(part / "results.json").runs[0].metrics[found.compared_label]
    assert found.runs[1].metrics[found.compared_label] == part_alone
    page = (tmp_path / "both" / "report.html").read_text()
    assert "part/untuned" in page
    code, _, err = compare(whole, "--out", tmp_path / "both")
    assert (code, "is there already" in err) == (2, True)


def test_one_run_is_compared_by_any_of_its_metrics(recipe_file: Path, tmp_path: Path, compare: Compare) -> None:
    out = begin(recipe_file, tmp_path / "out")
    code, printed, _ = compare(out, "--metric", "perplexity")
    assert code == 0
    assert "Best by perplexity" in printed
    code, _, err = compare(out, "--metric", "perplexty")
    assert (code, "did you mean perplexity?" in err) == (2, True)
    code, _, err = compare(out, "--split", "tests")
    assert (code, "did you mean test" in err) == (2, True)
    code, _, err = compare(tmp_path / "nothing")
    assert (code, "is no run" in err) == (2, True)


def test_runs_of_a_recipe_that_was_edited_between_are_compared_and_that_is_said(
    recipe_file: Path, tmp_path: Path, compare: Compare
) -> None:
    first = begin(recipe_file, tmp_path / "first")
    recipe_file.write_text(recipe_file.read_text() + "\n# another idea\n")
    second = begin(recipe_file, tmp_path / "second")
    code, printed, _ = compare(first, second)
    assert code == 0
    assert "The runs differ in their recipes, too." in printed


def test_what_can_not_be_compared_is_refused_with_the_reason(
    recipe_file: Path, tmp_path: Path, compare: Compare
) -> None:
    first, second = begin(recipe_file, tmp_path / "first"), begin(recipe_file, tmp_path / "second")
    whole = second / "results.json"
    as_it_was = whole.read_text()
    found = json.loads(as_it_was)
    for change, reason in (
        (lambda r: r["data"]["splits"]["test"].update(sha256="0"), "scored on another test split"),
        (lambda r: r.update(headline="perplexity"), "its primary metric is perplexity, not"),
        (
            lambda r: r["runs"][0]["signatures"].update({r["headline"]: "otherwise"}),
            "was computed otherwise: otherwise",
        ),
        (lambda r: r["runs"][0].update(metrics={}), "no entry has a score"),
    ):
        changed = json.loads(as_it_was)
        change(changed)
        whole.write_text(json.dumps(changed))
        code, printed, err = compare(first, second)
        assert (code, printed) == (2, ""), reason
        assert str(second) in err
        assert reason in err
    whole.write_text(json.dumps(found))
    code, printed, _ = compare(first, second, first)
    assert code == 0
    assert printed.count("| first/untuned ") == 1
    with (second / "untuned" / "predictions.jsonl").open("a") as file:
        file.write("\n")
    code, _, err = compare(first, second)
    assert code == 2
    assert "predictions.jsonl" in err
