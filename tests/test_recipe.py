"""Recipes: what is wrong is said with its line, and with what would be right."""

from pathlib import Path

import pytest

from workbench import Recipe, Training
from workbench.errors import UserError
from workbench.recipe import load_recipe


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_recipes_of_this_repository_load() -> None:
    paths = [
        path
        for path in sorted(Path(__file__).parent.parent.glob("recipes/*.py"))
        if "\nrecipe = Recipe(" in path.read_text(encoding="utf-8")
    ]
    assert len(paths) >= 7
    for path in paths:
        assert isinstance(load_recipe(path), Recipe)


def test_a_missing_file_is_answered_with_the_nearest(tmp_path: Path) -> None:
    written(tmp_path, "")
    with pytest.raises(UserError, match=r"mine\.py"):
        load_recipe(tmp_path / "mime.py")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = (\n", r"mine\.py:1: SyntaxError"),
        ("\nimport nothing_of_this_name\n", r"mine\.py:2: ModuleNotFoundError"),
        ("x = 1\n", "defines no `recipe"),
        ("from workbench import Recipe\nrecipe = Recipe(metods=())\n", r"mine\.py:2: .*did you mean methods"),
        (
            "from workbench import Training\nTraining(num_train_epochs=0, warmup_steps=2)\n",
            r"(?s)2 problems.*num_train_epochs.*warmup_steps",
        ),
    ],
)
def test_an_error_names_file_line_and_remedy(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        load_recipe(written(tmp_path, text))


def test_every_problem_of_a_recipe_is_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Recipe(
            checkpoint="x",
            data={"train": "a"},
            row_to_examples=lambda row: [],
            methods=(),
            metrics=("bleu",),
            primary_metric="f1",
        )
    for word in ("validation", "evaluate", "methods is empty", "primary_metric 'f1'"):
        assert word in str(caught.value)


def test_leaks_are_allowed_for_evaluated_splits_only() -> None:
    with pytest.raises(
        UserError, match="allow_leaks names 'tset', 'train', not among the evaluated splits test, unseen"
    ):
        Recipe(
            checkpoint="x",
            data=dict.fromkeys(("train", "validation", "test", "unseen"), "a"),
            row_to_examples=lambda row: [],
            methods=("lora",),
            metrics=("bleu",),
            primary_metric="bleu",
            allow_leaks=("tset", "train", "unseen"),
        )


def test_accumulation_must_divide_the_batch() -> None:
    with pytest.raises(UserError, match="must divide"):
        Training(batch_size=8, gradient_accumulation_steps=3)
