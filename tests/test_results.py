"""`results.json`: typed, of a known form, and one line for any other."""

import json
import runpy
from pathlib import Path

import pytest

from tiny import metric_info, run_record, tiny_results
from workbench.errors import UserError
from workbench.results import (
    SCHEMA,
    Comparison,
    ExportRecord,
    Results,
    Score,
    Seconds,
    read_results,
    to_json,
    write_results,
)


def some_results() -> Results:
    score = Score(value=5.0, low=4.0, high=6.0)
    runs = [
        run_record("untuned", {"bleu[test]": score}),
        run_record(
            "lora", {"bleu[test]": score}, steps=3, curve=({"step": 1, "loss": 2.5},), choosing={"": {"by": "sum"}},
            export=ExportRecord(merged=True, max_abs_logit_difference=1e-6, greedy_agreement=1.0, prompts=8),
        ),
        run_record("dora", {}, status="failed", error="it failed"),
    ]  # fmt: skip
    pair = Comparison(
        a="untuned", b="lora", metric="bleu", split="test", difference=0.0, low=-1.0, high=1.0, p=1.0, p_adjusted=1.0
    )
    return tiny_results(
        metrics={"bleu": metric_info("bleu")}, runs=runs, comparisons=[pair], seconds=Seconds.of(runs, 10.0)
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write_results(file, some_results())
    found = read_results(file)
    assert to_json(found) == to_json(some_results())
    assert found.runs[1].export.merged
    assert found.runs[1].metrics["bleu[test]"] == Score(value=5.0, low=4.0, high=6.0)
    assert [run.done for run in found.runs] == [True, True, False]
    assert found.compared_label == "bleu[test]"


def test_the_keys_of_the_contract_are_always_there(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write_results(file, some_results())
    values = json.loads(file.read_text())
    assert values["schema"] == SCHEMA
    assert {"recipe", "recipe_sha256", "checkpoint", "environment", "data", "runs", "comparisons"} <= values.keys()
    for run in values["runs"]:
        assert {
            "method", "seed", "bits", "status", "error", "metrics", "trainable_parameters", "total_parameters",
            "train_seconds", "evaluation_seconds", "train_tokens_per_second", "peak_memory_bytes", "adapter_bytes",
            "learning_rate", "export",
        } <= run.keys()  # fmt: skip
        assert {"merged", "reason", "max_abs_logit_difference", "greedy_agreement"} <= run["export"].keys()


def test_the_seconds_of_a_run_add_up() -> None:
    seconds = Seconds.of(some_results().runs, 10.0)
    assert seconds.total == 10 == seconds.training + seconds.evaluation + seconds.export + seconds.other
    assert Seconds.of(some_results().runs, 1.0).other == 0  # what was done before an interruption counts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.pop("schema"), "is of schema 1, written by an older version"),
        (lambda v: v.update(schema=SCHEMA + 1), "written by another version"),
        (lambda v: v["runs"][0].pop("method"), r"damaged at runs\.0\.method"),
        (lambda v: v["runs"][0].update(status="maybe"), r"damaged at runs\.0\.status"),
        (lambda v: v["runs"][1]["metrics"]["bleu[test]"].update(value="much"), r"damaged at runs\.1\.metrics"),
    ],
)
def test_another_form_is_one_line(tmp_path: Path, change: object, said: str) -> None:
    file = tmp_path / "results.json"
    write_results(file, some_results())
    values = json.loads(file.read_text())
    change(values)  # type: ignore[operator]
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=said) as caught:
        read_results(file)
    assert "\n" not in str(caught.value)
    file.write_text("{")
    with pytest.raises(UserError, match="can't be read as results"):
        read_results(file)


def test_the_documentation_of_the_file_is_that_of_the_code() -> None:
    root = Path(__file__).parent.parent
    made = runpy.run_path(str(root / "tools" / "results_doc.py"))["page"]()
    assert made.count("| `") > 60
    assert made == (root / "docs" / "results.md").read_text(encoding="utf-8"), "python tools/results_doc.py writes it"
