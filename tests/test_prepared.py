"""Prepared data: what was made is opened by whoever asks for the same, in any process, and for nothing else."""

import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tiny import make_tokenizer, rows, write_rows, write_splits
from workbench import Recipe
from workbench.data import Example, PreparedData, Store, conversation, prepare_data
from workbench.data.keys import data_key, rows_key
from workbench.data.render import Renderer, make_renderer
from workbench.errors import UserError
from workbench.training import training_rows

SPLITS = ("train", "validation", "test", "test_unseen")


def recipe(folder: Path, **given: Any) -> Recipe:
    usual: dict[str, Any] = {
        "checkpoint": "tiny",
        "data": {split: folder / f"{split}.jsonl" for split in SPLITS},
        "row_to_examples": conversation,
        "methods": ("lora",),
        "metrics": ("bleu",),
        "primary_metric": "bleu",
        "max_tokens": 128,
        "max_new_tokens": 16,
    }
    return Recipe(**{**usual, **given})


class Counted:
    """`conversation`, and how many rows it was asked for."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, row: Any) -> list[Example]:
        self.rows += 1
        return conversation(row)


@pytest.fixture
def renderer() -> Renderer:
    return make_renderer(make_tokenizer())


@pytest.fixture(autouse=True)
def data(tmp_path: Path) -> None:
    write_splits(tmp_path)


def same(one: PreparedData, other: PreparedData) -> bool:
    pairs = [{split: list(found) for split, found in each.pairs.items()} for each in (one, other)]
    rest = [(each.too_long, each.repeated, each.leaked, each.fingerprints) for each in (one, other)]
    return pairs[0] == pairs[1] and rest[0] == rest[1]


def test_the_same_is_opened_and_not_made_again(
    tmp_path: Path, renderer: Renderer, caplog: pytest.LogCaptureFixture
) -> None:
    long, twice, leaked = rows(3, 400)
    long["messages"][1]["content"] *= 9
    write_rows(tmp_path / "train.jsonl", [*rows(24), long, twice, {**twice, "id": "b"}, leaked])
    write_rows(tmp_path / "test_unseen.jsonl", [leaked])
    make, store = Counted(), Store(tmp_path / "store")
    asked = recipe(tmp_path, row_to_examples=make, allow_leaks=("test_unseen",))
    made = prepare_data(asked, lambda _: renderer, store=store, recipe_sha256="r")
    assert (list(made.too_long["train"]), made.repeated, made.leaked) == (["row-400"], 1, 1)
    warned, count = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING], make.rows
    assert warned == [
        "train: 1 of 26 examples have more than max_tokens=128 and are left out (row-400)",
        "train: left out 1 repeated examples and 1 that stand in another split",
    ]
    caplog.clear()
    opened = prepare_data(
        asked, lambda _: make_renderer(make_tokenizer()), store=Store(store.folder), recipe_sha256="r"
    )
    assert same(made, opened)
    assert make.rows == count
    assert (opened.key, opened.content) == (made.key, made.content)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == warned


def test_another_process_opens_it_by_folder_and_key(tmp_path: Path, renderer: Renderer) -> None:
    made = prepare_data(recipe(tmp_path), lambda _: renderer, store=Store(tmp_path / "store"))
    code = """
import sys
from pathlib import Path
from workbench.data import PreparedData, Store
found = PreparedData.open(Store(Path(sys.argv[1])), sys.argv[2])
print(found.content, *(example.completion for example, _ in found.pairs["test"]), sep="|")
"""
    command = [sys.executable, "-c", code, str(made.store.folder), made.key]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip().split("|") == [made.content, *(example.completion for example, _ in made.pairs["test"])]


def no_change(value: Any) -> Any:
    return value


def with_another_row(asked: Recipe) -> Recipe:
    path = Path(str(asked.data["test"]))
    write_rows(path, rows(9, 200))
    return asked


def with_another_template(renderer: Renderer) -> Renderer:
    renderer.tokenizer.chat_template = renderer.tokenizer.chat_template.replace("<|im_start|>", "<|im_start|>a ")
    return renderer


@pytest.mark.parametrize(
    ("of_recipe", "of_renderer", "options"),
    [
        (lambda asked: replace(asked, max_tokens=127), no_change, {}),
        (lambda asked: replace(asked, checkpoint="other"), no_change, {}),
        (with_another_row, no_change, {}),
        (lambda asked: replace(asked, allow_leaks=("test",)), no_change, {}),
        (no_change, with_another_template, {}),
        (no_change, no_change, {"limit": 5}),
        (no_change, no_change, {"recipe_sha256": "s"}),
        (no_change, no_change, {"recipe_sha256": None}),
    ],
)
def test_what_is_of_another_key_is_made(
    of_recipe: Callable[[Recipe], Recipe],
    of_renderer: Callable[[Renderer], Renderer],
    options: dict[str, Any],
    tmp_path: Path,
    renderer: Renderer,
) -> None:
    make = Counted()
    asked = recipe(tmp_path, row_to_examples=make)
    usual: dict[str, Any] = {"store": Store(tmp_path / "store"), "recipe_sha256": "r"}
    first = prepare_data(asked, lambda _: renderer, **usual)
    before = make.rows
    second = prepare_data(of_recipe(asked), lambda _: of_renderer(renderer), **{**usual, **options})
    assert make.rows >= 2 * before
    assert first.key != second.key
    assert len(PreparedData.open(usual["store"], first.key).pairs["test"]) == 8  # and the first is still there


def test_the_tokenizers_files_count(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")

    def key() -> str:
        from transformers import AutoTokenizer

        renderer = make_renderer(AutoTokenizer.from_pretrained(tmp_path / "tokenizer"))
        return data_key(rows_key(recipe(tmp_path), None, "r"), recipe(tmp_path), renderer)

    before = key()
    assert key() == before
    path = tmp_path / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert key() != before


def test_rows_of_a_function_are_read_again_and_compared(tmp_path: Path, renderer: Renderer) -> None:
    given = rows(12)

    def function() -> list[dict[str, Any]]:
        return given

    make, store = Counted(), Store(tmp_path / "store")
    files = {split: tmp_path / f"{split}.jsonl" for split in SPLITS[1:]}
    asked = recipe(tmp_path, data={"train": function, **files}, row_to_examples=make)
    first = prepare_data(asked, lambda _: renderer, store=store, recipe_sha256="r")
    first_rows = training_rows(first.pairs["train"].rendered, first.pairs["validation"].rendered, store, first.content)
    before = make.rows
    again = prepare_data(asked, lambda _: renderer, store=store, recipe_sha256="r")
    assert (again.content, make.rows) == (first.content, before)
    given.pop()
    other = prepare_data(asked, lambda _: renderer, store=store, recipe_sha256="r")
    assert make.rows > before
    assert (other.key, len(other.pairs["train"])) == (first.key, 11)
    assert other.content != first.content
    other_rows = training_rows(other.pairs["train"].rendered, other.pairs["validation"].rendered, store, other.content)
    assert (len(first_rows.train), len(other_rows.train)) == (12, 11)
    kept, given[0] = given[0], {"id": "no messages"}
    with pytest.raises(UserError, match="function:1: no messages"):
        prepare_data(asked, lambda _: renderer, store=store, recipe_sha256="r")
    given[0] = kept
    assert prepare_data(asked, lambda _: renderer, store=store, recipe_sha256="r").content == other.content


def test_training_rows_are_opened_too(tmp_path: Path, renderer: Renderer) -> None:
    made = prepare_data(recipe(tmp_path), lambda _: renderer, store=Store(tmp_path / "store"))
    train, validation = made.pairs["train"].rendered, made.pairs["validation"].rendered
    first = training_rows(train, validation, made.store, made.content)
    times = {path: path.stat().st_mtime_ns for path in made.store.folder.glob("*.rows*")}
    again = training_rows(train, validation, made.store, made.content)
    assert again.train["input_ids"] == first.train["input_ids"]
    assert times
    assert times == {path: path.stat().st_mtime_ns for path in made.store.folder.glob("*.rows*")}


def test_each_example_is_written_once(tmp_path: Path, renderer: Renderer) -> None:
    given = rows(24)
    given[7]["language"] = "a word that stands nowhere else"
    write_rows(tmp_path / "train.jsonl", given)
    asked = recipe(tmp_path, row_to_examples=lambda row: conversation(row, groups=("language",)))
    made = prepare_data(asked, lambda _: renderer, store=Store(tmp_path / "store"))
    assert made.pairs["train"][7][0].groups == {"language": "a word that stands nowhere else"}
    holding = [path.name for path in made.store.folder.iterdir() if b"stands nowhere else" in path.read_bytes()]
    assert len(holding) == 1
    assert "train.examples" in holding[0]


def test_what_is_damaged_or_not_there_is_one_line(tmp_path: Path, renderer: Renderer) -> None:
    store = Store(tmp_path / "store")
    made = prepare_data(recipe(tmp_path), lambda _: renderer, store=store)
    with pytest.raises(UserError, match="holds no prepared data under the key nothing"):
        PreparedData.open(store, "nothing")
    store.write(f"{made.key}.test.tokens", [], {})
    with pytest.raises(UserError, match="files of 'test' are not those that were saved"):
        PreparedData.open(store, made.key)
    (store.folder / f"{made.key}.prepared.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="can't be read"):
        PreparedData.open(store, made.key)


def test_a_split_of_which_nothing_is_left_is_an_error(tmp_path: Path, renderer: Renderer) -> None:
    with pytest.raises(UserError, match="train: every example has more than max_tokens=20 tokens"):
        prepare_data(recipe(tmp_path, max_tokens=20, max_new_tokens=8), lambda _: renderer)
