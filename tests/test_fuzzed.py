"""Whatever a user's file, recipe or run folder holds: it is read, or told in one line that names it."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiny import run_record, tiny_results
from workbench import Recipe, Training
from workbench.data import conversation
from workbench.errors import UserError
from workbench.recipe import METHODS
from workbench.results import read_results, to_json
from workbench.run.folder import OPTIONS_FILE, RESULTS_FILE, RunFolder
from workbench.run.manifest import changes
from workbench.run.options import Options
from workbench.sources import DataFile, read_rows

EXAMPLES = 1000
thorough = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)

names = st.sampled_from(["id", "messages", "text", "label", "prompt", "completion", "answer", "role", "content", "a b"])
# What Python's json writes: also what JSON does not know, and signs of half a pair.
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.text(st.characters(categories=["Cs", "Cc", "Cf"]), max_size=3),
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)
turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "x"]) | values, "content": values},
    optional={"weight": values, "tool_calls": values, "reasoning_content": values, "name": values},
)
conversations = st.fixed_dictionaries(
    {"messages": st.lists(turns, max_size=4) | values}, optional={"id": values, "tools": values, "answer": values}
)


def written(value: Any) -> str:
    """As JSON."""
    return json.dumps(value, ensure_ascii=False)


def damaged(content: bytes, places: list[tuple[int, int]]) -> bytes:
    """Content with some bytes changed, and cut off where the change says so."""
    changed = bytearray(content)
    for place, value in places:
        if not changed:
            break
        if value == 256:
            del changed[place % len(changed) :]
        else:
            changed[place % len(changed)] = value
    return bytes(changed)


damages = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 256)), min_size=1, max_size=6)


def read_or_told(path: Path, **options: str) -> None:
    """Read all rows of a file, or be told in lines that name it."""
    try:
        for row in read_rows(DataFile(path, **options)):
            assert path.name in row.place
    except UserError as error:
        assert path.name in str(error)


JSON_FILES = st.one_of(
    st.binary(max_size=200),
    values.map(lambda value: written(value).encode("utf-8", "surrogatepass")),
    st.lists(st.one_of(values, conversations), max_size=4).map(
        lambda rows: "\n".join(map(written, rows)).encode("utf-8", "surrogatepass")
    ),
    st.integers(1, 6000).map(lambda digits: b'{"id": 1' + b"0" * digits + b"}"),
    st.integers(1, 10**5).map(lambda depth: b"[" * depth),
    st.integers(1, 10**5).map(lambda depth: b'{"a":' * depth + b"1" + b"}" * depth),
)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"

    @thorough
    @given(JSON_FILES, damages | st.just([]))
    def look(content: bytes, places: list[tuple[int, int]]) -> None:
        path.write_bytes(damaged(content, places))
        read_or_told(path)

    look()


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    cells = st.text(st.sampled_from("a1 ,;|\t\"\n\r'é你\x00\u2028"), max_size=8) | st.text(max_size=8)
    tables = st.lists(st.lists(cells, max_size=4).map(",".join), max_size=5).map("\n".join)
    encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252", "utf-32"])

    @thorough
    @given(tables, encodings, damages | st.just([]))
    def look(table: str, encoding: str, places: list[tuple[int, int]]) -> None:
        path.write_bytes(damaged(table.encode(encoding, "replace"), places))
        read_or_told(path)

    look()


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
def test_binary_tables(suffix: str, tmp_path: Path) -> None:
    import pandas

    path = tmp_path / f"rows{suffix}"
    frame = pandas.DataFrame({"text": ["a", "b", None], "number": [1, 2, 3]})
    frame.to_excel(path, index=False) if suffix == ".xlsx" else frame.to_parquet(path)
    sound = path.read_bytes()

    @thorough
    @given(damages)
    def look(places: list[tuple[int, int]]) -> None:
        path.write_bytes(damaged(sound, places))
        read_or_told(path)

    look()


@thorough
@given(conversations | st.dictionaries(names, values, max_size=4))
def test_conversations(row: Any) -> None:
    """A row that is no conversation is told by ValueError, to which the reader adds its place."""
    try:
        for example in conversation(row):
            assert isinstance(example.completion, str)
    except ValueError as error:
        assert str(error).strip()


FIELDS = {
    "data": st.sampled_from([{"train": "a.jsonl", "validation": "b.jsonl", "test": "c.jsonl"}, "a.csv"]) | values,
    "checkpoint": st.text(max_size=10) | values,
    "text": st.none() | names | values,
    "label": st.none() | names | values,
    "answer": st.none() | names | values,
    "methods": st.lists(st.sampled_from(METHODS), max_size=3) | values,
    "metrics": st.lists(st.sampled_from(["bleu", "chrf", "accuracy", "nothing"]), max_size=2) | values,
    "primary_metric": st.sampled_from(["", "bleu"]) | values,
    "max_tokens": st.integers(-5, 500) | values,
    "max_new_tokens": st.integers(-5, 500) | values,
    "head": st.sampled_from(["likelihood", "classes", ("likelihood", "classes")]) | values,
    "settings": st.just({"lora": {"r": 4}}) | values,
    "report_groups": values,
    "allow_leaks": values,
    "split_seed": values,
    "enable_thinking": values,
    "monitoring": values,
    "baselines": values,
    "name": values,
}


@thorough
@given(st.fixed_dictionaries({"data": FIELDS["data"]}, optional={n: v for n, v in FIELDS.items() if n != "data"}))
def test_fields_of_a_recipe(fields: dict[str, Any]) -> None:
    try:
        Recipe(**fields)
    except UserError as error:
        assert str(error).strip()


TRAINING = {field.name: st.integers(-3, 10) | st.floats() | values for field in dataclasses.fields(Training)}


@thorough
@given(st.fixed_dictionaries({}, optional=TRAINING))
def test_fields_of_a_training(fields: dict[str, Any]) -> None:
    try:
        Training(**fields)
    except UserError as error:
        assert str(error).strip()


OPTIONS = Options(
    recipe=None, recipe_sha256=None, methods=["lora"], model=None, bits=32, seed=0, seeds=1, limit=None
)  # fmt: skip


def with_values_changed(value: Any, draw: Any) -> Any:
    """JSON with one of its parts replaced or left out, wherever it is."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        name = draw(st.sampled_from(sorted(value)))
        if draw(st.booleans()) and not draw(st.booleans()):
            return {other: inner for other, inner in value.items() if other != name}
        return {**value, name: with_values_changed(value[name], draw)}
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], with_values_changed(value[place], draw), *value[place + 1 :]]
    return draw(values)


def test_run_folders(tmp_path: Path) -> None:
    record = run_record("lora", {}, manifest=True)
    sound = {
        OPTIONS_FILE: dataclasses.asdict(OPTIONS),
        RESULTS_FILE: json.loads(json.dumps(to_json(tiny_results(runs=[record])))),
    }
    (tmp_path / "lora").mkdir()
    manifest = {"record": "0" * 64, "files": {"predictions.jsonl": "0" * 64}}

    @thorough
    @given(st.data(), st.sampled_from([OPTIONS_FILE, RESULTS_FILE, "lora/manifest.json"]), damages | st.just([]))
    def look(data: Any, file: str, places: list[tuple[int, int]]) -> None:
        for name, value in {**sound, "lora/manifest.json": manifest}.items():
            changed = with_values_changed(value, data.draw) if name == file and not places else value
            content = written(changed).encode("utf-8", "surrogatepass")
            (tmp_path / name).write_bytes(damaged(content, places) if name == file else content)
        try:
            folder = RunFolder.open(tmp_path)
            for run in folder.read_results().runs:
                assert changes(folder.trial(run.method, run.seed), run)
        except UserError as error:
            assert str(tmp_path) in str(error)

    look()


def test_results_that_are_written_are_read(tmp_path: Path) -> None:
    file = tmp_path / RESULTS_FILE

    @settings(thorough, max_examples=EXAMPLES // 4)
    @given(st.text(max_size=30), st.floats(allow_nan=False, allow_infinity=False))
    def look(text: str, number: float) -> None:
        from workbench.results import write_results

        record = run_record("lora", {}, error=text.encode("utf-8", "replace").decode(), train_seconds=number)
        write_results(file, tiny_results(runs=[record]))
        (read,) = read_results(file).runs
        assert read.error == record.error and math.isclose(read.train_seconds, number)

    look()
