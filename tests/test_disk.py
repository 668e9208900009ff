"""Data on disk: the same as in memory, and memory doesn't grow with them."""

import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from tiny import make_tokenizer, rows, write_rows
from workbench.data import Example, conversation, load_splits
from workbench.data.render import make_renderer, render_all
from workbench.data.store import TOGETHER, OnDisk, write_dataset
from workbench.training import training_rows
from workbench.training.rows import count_labels, lengths


def numbers(count: int) -> OnDisk[int]:
    dataset = write_dataset(({"number": number} for number in range(count)), {"number": pyarrow.int64()})
    return OnDisk(dataset, lambda record: int(record["number"]))


def test_it_is_a_sequence() -> None:
    count = 2 * TOGETHER + 3
    found = numbers(count)
    assert list(found) == list(range(count))
    assert (len(found), found[-1], found[5:8], found[::1000]) == (count, count - 1, [5, 6, 7], [0, 1000, 2000])
    assert not numbers(0)
    with pytest.raises(IndexError):
        found[count]


def test_its_file_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = numbers(10)
    assert not list(tmp_path.iterdir())
    assert found[3] == 3

    def broken() -> Iterator[dict[str, int]]:
        yield {"number": 1}
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_dataset(broken(), {"number": pyarrow.int64()})
    assert not list(tmp_path.iterdir())


def test_an_example_survives_it() -> None:
    example = Example(
        id="1", prompt=({"role": "user", "content": "Gut?\n✓"},), completion="ja", groups={"language": "de"},
        source="s", choices=("ja", "nein"), task="t", references=("doch", "jawohl"),
    )  # fmt: skip
    assert Example.from_json(example.to_json()) == example


def prepared(folder: Path, count: int) -> Any:
    def many() -> Iterator[dict[str, Any]]:
        for number in range(count):
            yield from rows(1, 10_000 + number)

    held_out = {
        split: write_rows(folder / f"{split}.jsonl", rows(4, 10 * n)) for n, split in enumerate(("validation", "test"))
    }
    splits = load_splits({"train": many, **held_out}, conversation)
    pairs = {
        split: render_all(make_renderer(make_tokenizer()), given, 200)[0] for split, given in splits.examples.items()
    }
    return pairs["train"], training_rows(pairs["train"].rendered, pairs["validation"].rendered)


def test_totals_are_those_of_the_examples(tmp_path: Path) -> None:
    pairs, given = prepared(tmp_path, 20)
    assert pairs.lengths.tolist() == [rendered.length for _, rendered in pairs]
    assert pairs.completion_lengths.tolist() == [len(rendered.completion_ids) for rendered in pairs.rendered]
    assert lengths(given.train).sum() == pairs.lengths.sum()
    assert count_labels(given.train) == pairs.completion_lengths.sum()


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    peaks = []
    prepared(tmp_path, 10)  # imports
    for count in (5_000, 20_000):
        tracemalloc.start()
        prepared(tmp_path, count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 15_000 * 300  # a few numbers for each example; in memory it takes 3,000 bytes
