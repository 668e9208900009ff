"""Objectives: found by lying in the folder, trained on without a change anywhere else."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny import SETTINGS, make_model, make_tokenizer, recipe_text, rows
from workbench.data import conversation
from workbench.data.render import Rendered, make_renderer, render_all
from workbench.methods import find_method
from workbench.models import attach
from workbench.recipe import Training
from workbench.run.__main__ import main
from workbench.training import Trained, find_objective, objectives, train, training_rows

TRAINING = Training(
    objective="pairwise", num_train_epochs=3, batch_size=4, validations=3, early_stopping_patience=0, warmup_steps=0
)


@pytest.fixture
def pairwise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With the file `objectives/pairwise.py` as if it lay in the folder of objectives."""
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(Path(__file__).parent / "objectives")])
    objectives.known_objectives.cache_clear()
    yield
    objectives.known_objectives.cache_clear()
    del sys.modules[f"{objectives.__name__}.pairwise"]


def rendered(count: int, start: int = 0) -> list[Rendered]:
    examples = [example for row in rows(count, start) for example in conversation(row)]
    return list(render_all(make_renderer(make_tokenizer()), examples, 200)[0].rendered)


def trained(folder: Path, training: Training = TRAINING) -> tuple[Any, Trained]:
    model = attach(make_model("llama"), find_method("lora"), SETTINGS["lora"], list(range(3, 30)), seed=0)
    given = training_rows(rendered(25), rendered(10, 100), objective=training.objective)
    return model, train(model, make_tokenizer(), given, training, 3e-2, False, folder, 0, "lora")


@pytest.mark.usefixtures("pairwise")
def test_an_objective_over_pairs_is_one_file(tmp_path: Path) -> None:
    model, result = trained(tmp_path)
    validations = [point["validation_loss"] for point in result.curve if "validation_loss" in point]
    assert validations[-1] < validations[0]
    # A mean over pairs, nine of which are not a whole number of batches.
    objective = find_objective("pairwise")
    batch = objective.collator(0, 1)(list(objective.rows(rendered(10, 100))))
    with torch.no_grad():
        loss = float(objective.loss(model, batch, False)) / 9
    assert loss == pytest.approx(result.validation_loss, rel=1e-4)
    assert result.checked_loss == pytest.approx(objective.checked_loss(model, rendered(10, 100), 0, 3), rel=1e-4)


@pytest.mark.usefixtures("pairwise")
def test_its_loss_does_not_depend_on_accumulation(tmp_path: Path) -> None:
    _, together = trained(tmp_path / "a")
    _, parts = trained(tmp_path / "b", replace(TRAINING, gradient_accumulation_steps=4))
    losses = [[point["loss"] for point in result.curve if "loss" in point] for result in (together, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_every_example_counts_the_same_however_long(tmp_path: Path) -> None:
    items = [*rendered(3), *[replace(item, completion_ids=item.completion_ids[-2:]) for item in rendered(4, 50)]]
    model = make_model("gpt2")
    expected = []
    for item in items:
        ids = torch.tensor([item.prompt_ids + item.completion_ids])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(item.prompt_ids) - 1 : -1]
        expected.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(item.completion_ids))))
    objective = find_objective("sft_per_example")
    batch = objective.collator(0, 8)(list(objective.rows(items)))
    assert int(objective.items(batch)) == 7
    for linear_output in (False, True):
        with torch.no_grad():
            loss = float(objective.loss(model, batch, linear_output))
        assert loss / 7 == pytest.approx(sum(expected) / 7, rel=1e-4)
    assert objective.checked_loss(model, items, 0, 3) == pytest.approx(sum(expected) / 7, rel=1e-4)
    assert find_objective("sft").checked_loss(model, items, 0, 3) != pytest.approx(sum(expected) / 7, rel=1e-3)
    training = replace(TRAINING, objective="sft_per_example")
    _, together = trained(tmp_path / "a", training)
    tuned, parts = trained(tmp_path / "b", replace(training, gradient_accumulation_steps=4))
    losses = [[point["loss"] for point in result.curve if "loss" in point] for result in (together, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert parts.checked_loss == pytest.approx(objective.checked_loss(tuned, rendered(10, 100), 0, 4), rel=1e-3)


def test_an_unknown_objective_is_refused_before_data_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_text(tmp_path / "no-checkpoint", tmp_path / "no-data")
    path = tmp_path / "tiny.py"
    path.write_text(recipe.replace("Training(", 'Training(objective="stf", '), encoding="utf-8")
    assert main([str(path), "--check"]) == 2
    assert "unknown objective 'stf'; did you mean sft? known: sft" in capsys.readouterr().err
