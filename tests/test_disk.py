"""Data on disk: the same as in memory, and memory doesn't grow with them."""

import gc
import os
import signal
import subprocess
import sys
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
from workbench.data.store import TOGETHER, OnDisk, Store
from workbench.errors import UserError
from workbench.training import training_rows
from workbench.training.rows import count_labels, lengths

SCHEMA = {"number": pyarrow.int64()}


def records(count: int) -> Iterator[dict[str, int]]:
    return ({"number": number} for number in range(count))


def numbers(count: int) -> OnDisk[int]:
    dataset = Store.temporary().write("numbers", records(count), SCHEMA)
    return OnDisk(dataset, lambda some: [int(record["number"]) for record in some])


def test_it_is_a_sequence() -> None:
    count = 2 * TOGETHER + 3
    found = numbers(count)
    assert list(found) == list(range(count))
    assert (len(found), found[-1], found[5:8], found[::1000]) == (count, count - 1, [5, 6, 7], [0, 1000, 2000])
    assert not numbers(0)
    with pytest.raises(IndexError):
        found[count]


def in_a_new_process(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` where `folder` is the argument and the folder of temporary files."""
    imports = "import sys\nfrom pathlib import Path\nfrom workbench.data import Store\n"
    return subprocess.run(
        [sys.executable, "-c", imports + code, folder],
        env={**os.environ, "TMPDIR": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_another_process_opens_it_by_name(tmp_path: Path) -> None:
    store = Store(tmp_path / "made when needed")
    store.write("a/b: ü", records(2500), SCHEMA)
    code = "print(sum(Store(Path(sys.argv[1])).open('a/b: \xfc')['number']))"
    assert in_a_new_process(code, store.folder).stdout == f"{sum(range(2500))}\n"


def test_what_is_written_anew_replaces_the_older_and_leaves_it_to_its_readers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    older, other = store.write("a", records(10), SCHEMA), store.write("a-b", records(3), SCHEMA)
    first = store.sha256("a")
    newer = store.write("a", records(20), SCHEMA)
    assert (len(older["number"]), len(newer), len(store.open("a")), len(store.open("a-b"))) == (10, 20, 20, len(other))
    assert len(list(tmp_path.glob("*.arrow"))) == 2
    store.write("a", records(10), SCHEMA)
    assert store.sha256("a") == first
    assert ("a" in store, "b" in store) == (True, False)


def test_what_can_not_be_written_whole_leaves_what_was_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("a", records(10), SCHEMA)
    before = sorted(path.name for path in tmp_path.iterdir())

    def broken() -> Iterator[dict[str, int]]:
        yield from records(TOGETHER + 1)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        store.write("a", broken(), SCHEMA)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert len(store.open("a")) == 10


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (flip, "has another sha256"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), r"has \d+ bytes, and was written with \d+"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: (path.parent / "a.json").unlink(), "there is nothing called 'a'"),
        (lambda path: (path.parent / "a.json").write_text("{", encoding="utf-8"), "a.json can't be read"),
    ],
)
def test_damage_is_found_when_it_is_opened(damage: Any, expected: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("a", records(100), SCHEMA)
    (path,) = tmp_path.glob("*.arrow")
    damage(path)
    with pytest.raises(UserError, match=f"{expected}.*Remove that folder"):
        store.open("a")
    assert len(store.write("a", records(100), SCHEMA)) == len(store.open("a")) == 100


def test_a_temporary_store_goes_with_its_process(tmp_path: Path) -> None:
    code = """
import pyarrow, os
stores = [Store.temporary(), Store.temporary()]
for store in stores:
    store.write("a", [{"number": 1}], {"number": pyarrow.int64()})
if os.fork() == 0:
    sys.exit()  # a child that ends before its parent
os.wait()
print([len(store.open("a")) for store in stores])
"""
    found = in_a_new_process(code, tmp_path)
    assert found.stdout == "[1, 1]\n", found.stderr
    assert not list(tmp_path.iterdir())


def test_a_temporary_store_of_a_process_that_was_killed_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"""
import pyarrow, os
Store.temporary().write("a", [{{"number": 1}}], {{"number": pyarrow.int64()}})
os.kill(os.getpid(), {signal.SIGKILL:d})
"""
    assert in_a_new_process(code, tmp_path).returncode == -signal.SIGKILL
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 2
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = Store.temporary()
    store.write("a", records(3), SCHEMA)
    assert not left & {path.name for path in tmp_path.iterdir()}
    Store.temporary()
    assert len(store.open("a")) == 3  # what lives stays


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


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.data.near.MOST", 500)  # of a split so many are looked at
    peaks = []
    prepared(tmp_path, 10)  # imports
    gc.freeze()  # the more objects there are from tests before, the later Python looks for cycles among new ones
    for count in (5_000, 15_000):
        gc.collect()
        tracemalloc.start()
        prepared(tmp_path, count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    gc.unfreeze()
    assert peaks[1] < peaks[0] + 10_000 * 300  # a few numbers for each example; in memory it takes 3,000 bytes


UNDER_A_MASK = """
import os, sys
os.umask(0o027)
from pathlib import Path
from workbench import files
folder = Path(sys.argv[1])
files.write_text(folder / "a.json", "{}")
with files.whole_folder(folder / "merged") as aside:
    (aside / "model.safetensors").touch(mode=0o600)  # as safetensors makes its files
    (aside / "sub").mkdir(mode=0o700)
for path in sorted(folder.rglob("*")):
    print(path.relative_to(folder), oct(path.stat().st_mode & 0o777))
"""


def test_new_files_are_as_open_as_the_user_wants(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", UNDER_A_MASK, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == [
        "a.json 0o640", "merged 0o750", "merged/model.safetensors 0o640", "merged/sub 0o750",
    ]  # fmt: skip
