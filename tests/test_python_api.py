"""The Python API: docs/python.md runs as it stands, and objects behave as files do."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import workbench
from tiny import make_model, make_tokenizer, write_splits
from workbench import UserError, compare_runs, load_run, run_recipe

DOCS = Path(__file__).parent.parent / "docs" / "python.md"


def test_every_example_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_model("llama").save_pretrained("checkpoint")
    make_tokenizer().save_pretrained("checkpoint")
    write_splits(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 7
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    printed = capsys.readouterr().out
    assert "| lora " in printed
    assert "lora done" in printed
    assert "first/lora second/untuned" in printed
    assert (tmp_path / "support-model" / "config.json").is_file()
    run, again = names["run"], names["again"]
    assert again.results == run.results or again.results.runs[0].metrics == run.results.runs[0].metrics
    said = [prediction.prediction for prediction in run.predictions("lora")]
    assert said
    # What is opened later says what the run recorded.
    question = [{"role": "user", "content": "What does transfer 200 cost?"}]
    assert again.load("lora").generate(question) == said[0]
    recipe = names["recipe"]
    with pytest.raises(UserError, match="not empty"):
        run_recipe(recipe, out="runs/first")
    with pytest.raises(UserError, match="did you mean"):
        run_recipe(recipe, methods=["lorra"])
    with pytest.raises(UserError, match="asks for no choice"):
        run.load("lora").classify({"id": "1", "messages": question})
    with pytest.raises(UserError, match="is no file: give it"):
        load_run("runs/first").load("lora")
    write_splits(tmp_path)
    test = tmp_path / "test.jsonl"
    test.write_text("".join(test.read_text().splitlines(keepends=True)[:-1]))
    run_recipe(replace(recipe), methods=["untuned"], out="runs/third")
    with pytest.raises(UserError, match="another test split"):
        compare_runs("runs/first", "runs/third")
    with pytest.raises(UserError, match="two runs or more"):
        compare_runs("runs/first")


def test_what_the_package_names_is_there() -> None:
    for name in workbench.__all__:
        assert getattr(workbench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = workbench.nothing  # type: ignore[attr-defined]
