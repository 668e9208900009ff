"""Files as people have them: format, delimiter and encoding are found by looking, and can be said."""

import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import openpyxl
import pytest

from workbench import DataFile
from workbench.errors import Problem, UserError, collected
from workbench.sources import open_rows, read_rows
from workbench.sources.readers import known_readers
from workbench.sources.readers.reader import Opened, Reader, Row

GERMAN = 'id;text;label\r\n1;"Schön; gerne wieder";gut\r\n2;Nie wieder, danke;schlecht\r\n'


def values(source: DataFile | Path) -> list[dict]:
    return [dict(row.values) for row in read_rows(source)]


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8 with a byte order mark"),
        ("cp1252", "cp1252"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16 LE"),
        ("utf-16-be", "UTF-16 BE"),
        ("utf-32", "UTF-32"),
    ],
)
def test_an_encoding_is_found(tmp_path: Path, encoding: str, words: str) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(GERMAN.encode(encoding))
    assert open_rows(path).format == f"CSV, semicolons, {words}"
    assert values(path) == [
        {"id": "1", "text": "Schön; gerne wieder", "label": "gut"},
        {"id": "2", "text": "Nie wieder, danke", "label": "schlecht"},
    ]


def test_one_letter_far_behind_decides(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(b"text,label\n" + b"plain,x\n" * 300_000 + "café,y\n".encode("cp1252"))
    assert open_rows(path).format == "CSV, commas, cp1252"


@pytest.mark.parametrize("encoding", ["gb18030", "shift_jis", "cp1251"])
def test_an_encoding_that_can_not_be_told_is_asked_for(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "d.csv"
    text = "текст,вид\nочень хорошо,да\n" if encoding == "cp1251" else "文,種\nとても良い,良\n"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=rf"d\.csv:1: neither UTF-8 nor cp1252.*{encoding}.*DataFile\(.*encoding="):
        open_rows(path)
    assert len(values(DataFile(path, encoding=encoding))) == 1
    with pytest.raises(UserError, match="unknown encoding 'utf9'"):
        open_rows(DataFile(path, encoding="utf9"))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("text\tlabel\na, b; c\tx\n", [{"text": "a, b; c", "label": "x"}]),
        ('text|label\n"a|b"|x\n', [{"text": "a|b", "label": "x"}]),
        ("sep=;\r\ntext;label\r\na,b;x\r\n", [{"text": "a,b", "label": "x"}]),
        ('text, label\n"a, b", x\n', [{"text": "a, b", "label": "x"}]),
        ("text;label;;\na;x;;\n", [{"text": "a", "label": "x"}]),
        ('text,label\n"say \\"a, b\\"",x\n', [{"text": 'say "a, b"', "label": "x"}]),
        ('text,label\n"say ""a\\""",x\n', [{"text": 'say "a\\"', "label": "x"}]),
        ("text\nonly one\n\n", [{"text": "only one"}]),
        ('text,label\n"two\nlines",x\n', [{"text": "two\nlines", "label": "x"}]),
        (f"text,label\n{'long ' * 100_000},x\n", [{"text": "long " * 100_000, "label": "x"}]),
    ],
)
def test_fields_are_told_apart(tmp_path: Path, content: str, found: list[dict]) -> None:
    (tmp_path / "d.csv").write_text(content, encoding="utf-8", newline="")
    assert values(tmp_path / "d.csv") == found


def test_a_delimiter_can_be_said_and_wrong_rows_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("a:b\n1:2\n")
    assert values(DataFile(path, delimiter=":")) == [{"a": "1", "b": "2"}]
    path.write_text("a;b\n1;2\n" + "1\n" * 5)
    with pytest.raises(UserError) as caught:
        values(path)
    assert str(caught.value).endswith(
        "(read with semicolons between the fields): 5 rows: 1 fields instead of the header's 2 (d.csv:3, :4, :5, ...)"
    )
    path.write_text("a,a\n1,2\n")
    with pytest.raises(UserError, match="several columns called 'a'"):
        values(path)


ROWS = [{"text": "a ] ,", "n": {"x": [1]}}, {"text": "é"}]


@pytest.mark.parametrize("name", ["d.json", "d.jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "".join(json.dumps(row, indent=2) for row in ROWS),
        "\n".join(map(json.dumps, ROWS)),
        json.dumps({"data": ROWS}, indent=1),
        json.dumps({"data": ROWS}),
    ],
)
def test_json_of_every_form(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert values(tmp_path / name) == ROWS
    (tmp_path / name).write_text(content, encoding="utf-16")
    assert values(tmp_path / name) == ROWS


@pytest.mark.parametrize("indent", [None, 1])
def test_a_single_row_is_a_row(tmp_path: Path, indent: int | None) -> None:
    for row in ({"messages": [{"role": "user"}]}, {"turns": [{"a": 1}], "id": "1"}, {"text": "a"}):
        (tmp_path / "d.jsonl").write_text(json.dumps(row, indent=indent))
        assert values(tmp_path / "d.jsonl") == [row]


def test_a_json_array_is_read_in_pieces(tmp_path: Path) -> None:
    rows = [{"text": "x" * random.Random(number).randrange(9_000)} for number in range(1_000)]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    assert values(tmp_path / "d.json") == rows
    assert [row.place for row in read_rows(tmp_path / "d.json")][-1] == "d.json:1000"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"a": 1},\n{"a": 2', "row 2 is not JSON"),
        ('[{"a": 1}', "the array has no end behind row 1"),
        ('[{"a": 1},\n\n{"a" 2}]', "row 2 is not JSON: Expecting ':' delimiter in line 3"),
        ('[1, {"a": 1}, 2]', r"2 rows: a row must be a JSON object, not int \(d.json:1, :3\)"),
    ],
)
def test_wrong_json_is_named(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(UserError, match=expected):
        values(tmp_path / "d.json")


@pytest.mark.parametrize("name", ["d.json", "d.jsonl"])
@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands there twice: one of them would be lost"),
        ('{"a": 1, "a": 1}', "'a' stands there twice"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
        ('{"a": ' + "[" * 100_000, "too many brackets in brackets"),
    ],
)
def test_json_that_would_be_read_wrongly_or_not_at_all_is_named(tmp_path: Path, name: str, row: str, said: str) -> None:
    lines = ['{"a": 0}', row]
    (tmp_path / name).write_text("\n".join(lines) if name == "d.jsonl" else f"[{','.join(lines)}]")
    with pytest.raises(UserError, match=said):
        values(tmp_path / name)


def test_a_function_of_rows_that_fails_is_told_with_its_line() -> None:
    def some_rows() -> Iterator[dict[str, str]]:
        yield {"text": "a"}
        raise RuntimeError("no connection")

    with pytest.raises(
        UserError, match=r"some_rows failed behind row 1: RuntimeError: no connection \(test_readers\.py"
    ):
        list(read_rows(some_rows))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PAR1", b"\x00" * 100])
@pytest.mark.parametrize("name", ["d.xlsx", "d.parquet"])
def test_a_broken_file_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="not a"):
        values(tmp_path / name)


def test_a_sheet_that_is_no_xml_is_one_line(tmp_path: Path) -> None:
    path, broken = tmp_path / "d.xlsx", tmp_path / "broken.xlsx"
    book = openpyxl.Workbook()
    book.active.append(["text"])
    book.active.append(["good"])
    book.save(path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(broken, "w") as changed:
        for member in whole.namelist():
            content = whole.read(member)
            changed.writestr(member, content[: len(content) // 2] if "sheet1" in member else content)
    with pytest.raises(UserError, match=r"broken\.xlsx: "):
        values(broken)


@pytest.mark.parametrize("name", ["d.csv", "d.json", "d.jsonl"])
def test_an_encoding_that_is_said_wrongly_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes('[{"a": "é"}]'.encode("cp1252"))
    with pytest.raises(UserError, match=r"not utf-?8: .*if it is another encoding, say DataFile\("):
        values(DataFile(tmp_path / name, encoding="utf8"))
    (tmp_path / name).write_bytes(b"\xff\xfe" + '[{"a": "é"}]'.encode("utf-16-le")[:-1])
    with pytest.raises(UserError, match=r"not (UTF-16|utf-16): "):
        values(tmp_path / name)
    if name != "d.csv":
        (tmp_path / name).write_bytes('[{"a": "é"}]'.encode("cp1252"))
        with pytest.raises(UserError, match=r"not UTF-8: .*encoding='cp1252'"):
            values(tmp_path / name)


def test_json_lines_of_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes('{"a": "é"}\n'.encode("cp1252"))
    with pytest.raises(UserError, match=r"d\.jsonl:1: not JSON.*DataFile\(.*encoding='cp1252'\)"):
        values(tmp_path / "d.jsonl")
    assert values(DataFile(tmp_path / "d.jsonl", encoding="cp1252")) == [{"a": "é"}]


def test_excel(tmp_path: Path) -> None:
    path = tmp_path / "d.xlsx"
    book = openpyxl.Workbook()
    book.active.append(["text", "stars", None])
    book.active.append(["good", 5])
    book.active.append([])
    book.active.append(["bad"])
    book.create_sheet("second").append(["x"])
    book["second"].append([True])
    book.save(path)
    assert values(path) == [{"text": "good", "stars": 5}, {"text": "bad", "stars": ""}]
    assert [row.place for row in read_rows(path)] == ["d.xlsx:2", "d.xlsx:4"]
    assert open_rows(path).format == "Excel, sheet 'Sheet' (not read: 'second')"
    assert values(DataFile(path, sheet="second")) == [{"x": True}]
    with pytest.raises(UserError, match="did you mean second"):
        open_rows(DataFile(path, sheet="secnd"))
    path.write_text("no")
    with pytest.raises(UserError, match="not an Excel file"):
        open_rows(path)


def test_what_says_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.dat").write_text("a;b\n1;2\n")
    with pytest.raises(UserError, match=r"unknown kind of data file '.dat'.*DataFile\(.*format='csv'\)"):
        open_rows(tmp_path / "d.dat")
    assert values(DataFile(tmp_path / "d.dat", format="csv")) == [{"a": "1", "b": "2"}]
    with pytest.raises(UserError, match="unknown format 'cvs'; did you mean csv"):
        open_rows(DataFile(tmp_path / "d.dat", format="cvs"))
    with pytest.raises(UserError, match="sheet says nothing about a file of the kind CSV"):
        open_rows(DataFile(tmp_path / "d.dat", format="csv", sheet="x"))
    with pytest.raises(UserError, match="looked for in"):
        open_rows("nowhere.csv")


def test_another_package_brings_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Reader(
        name="lines", title="lines", suffixes=(".txt",),
        read=lambda file: Opened("lines", [Row("1", {"text": Path(file.path).read_text()})]),
    )  # fmt: skip
    monkeypatch.setattr("workbench.plugins.from_entry_points", lambda group, kind, known: {"lines": lines})
    known_readers.cache_clear()
    try:
        (tmp_path / "d.txt").write_text("hello")
        assert values(tmp_path / "d.txt") == [{"text": "hello"}]
    finally:
        known_readers.cache_clear()


def test_errors_of_one_kind_are_one_line() -> None:
    many = [Problem(f"d.csv:{number}", "no 'label'") for number in range(2, 4160)]
    assert str(collected("data", many)) == "data: 4158 rows: no 'label' (d.csv:2, :3, :4, ...)"
    others = [Problem(f"e.csv:{number}", f"'{number}' is none of a, b") for number in range(5)]
    assert str(collected("data", [*many, *others])).splitlines() == [
        "data: 4163 problems",
        "  4158 rows: no 'label' (d.csv:2, :3, :4, ...)",
        "  5 rows, the first: '0' is none of a, b (e.csv:0, :1, :2, ...)",
    ]
    two = [Problem("d.csv:2", "no 'text'"), Problem("d.csv:3", "no 'label'"), "something else"]
    assert len(str(collected("data", two)).splitlines()) == 4
