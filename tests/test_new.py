"""`python -m workbench.new FILE`: what it says of a file, and that the recipe it writes runs as it is."""

import json
from pathlib import Path

import openpyxl
import pytest

from tiny import make_model, make_tokenizer, rows, write_rows
from workbench import Recipe, load_run
from workbench.new.__main__ import main as new
from workbench.recipe import load_recipe
from workbench.run.__main__ import main as run
from workbench.run.defaults import completed


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reviews(count: int = 60, text: str = "text", label: str = "category") -> None:
    lines = [f"Schön {number};{('bad', 'good')[number % 2]};2026" for number in range(count)]
    Path("reviews.csv").write_text("\r\n".join([f"{text};{label};year", *lines]), encoding="cp1252")


def test_the_recipe_it_writes_runs_to_the_end(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model("llama")
    model.config.max_position_embeddings = 2048
    model.save_pretrained("tiny")
    make_tokenizer().save_pretrained("tiny")
    reviews()
    assert new(["reviews.csv", "--model", "./tiny"]) == 0
    said = capsys.readouterr()
    for expected in (
        "reviews.csv: CSV, semicolons, cp1252; 60 rows",
        "category: 2 different values",
        "read as: text and label: text, category\n",
        "labels: bad (30), good (30)",
    ):
        assert expected in said.out
    assert "wrote reviews.py; next: python -m workbench.run reviews.py --check" in said.err
    assert run(["reviews.py", "--check", "--methods", "untuned"]) == 0
    shown = capsys.readouterr().out.partition("## Splits")[0]
    for expected in (
        "data: reviews.csv: CSV, semicolons, cp1252; 60 rows",
        "60 rows read as text and label: text, category (one of 2)",
        "not used: year",
        "no id: the place of a row is its id",
        "divided into train, validation, test by chance (seed 0)",
    ):
        assert expected in shown
    assert run(["reviews.py", "--methods", "untuned", "--out", "out"]) == 0
    assert "tfidf" in capsys.readouterr().out
    Path("reviews.csv").unlink()  # what is asked of new rows stands in the run's record
    found = load_run("out").load("untuned").classify({"id": "n", "text": "New"})
    assert set(found["category"]) == {"bad", "good"}
    data = json.loads(Path("out/results.json").read_text())["data"]
    assert (data["split_seed"], data["columns"]["choices"]) == (0, ["bad", "good"])
    reviews(61)
    assert run(["--resume", "out", "--methods", "lora"]) == 2
    assert "have changed since out was begun" in capsys.readouterr().err


def test_it_overwrites_nothing_and_names_columns(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reviews()
    Path("reviews.py").write_text("mine")
    assert new(["reviews.csv"]) == 2
    assert Path("reviews.py").read_text() == "mine"
    assert new(["reviews.csv", "--out", "r/x.py", "--label", "categry"]) == 2
    assert new(["reviews.csv", "--out", "r/x.py", "--label", "year", "--answer", "text"]) == 2
    errors = capsys.readouterr().err
    for expected in (
        "is there already",
        "unknown column of reviews.csv 'categry'; did you mean category",
        "--label or",
    ):
        assert expected in errors
    assert new(["nothing.csv"]) == 2
    assert not Path("r").exists()


def written(*arguments: str) -> Recipe:
    assert new([*arguments, "--out", "r.py"]) == 0
    recipe = completed(load_recipe(Path("r.py")))
    Path("r.py").unlink()
    return recipe


def test_columns_without_telling_names_are_guessed_by_their_values(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reviews(text="Kommentar", label="Note")
    recipe = written("reviews.csv")
    assert (recipe.row_to_examples.text, recipe.row_to_examples.label) == ("Kommentar", "Note")  # type: ignore[union-attr]
    assert "a guess by the values" in capsys.readouterr().out
    Path("pairs.csv").write_text("Frage,Antwort\n" + "".join(f"Was ist {n}?,Das ist {n}.\n" for n in range(20)))
    assert new(["pairs.csv"]) == 2
    assert "--text COLUMN with --label" in capsys.readouterr().err
    assert written("pairs.csv", "--text", "Frage", "--answer", "Antwort").metrics[0] == "bleu"


def test_other_formats_and_shapes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(here / "talks.jsonl", [*rows(20), {"messages": [{"role": "user", "content": ""}]}])
    assert written("talks.jsonl").metrics[0] == "bleu"
    said = capsys.readouterr().out
    assert "read as: conversations: messages (messages)" in said
    assert "1 rows can't be read: message 1 is empty" in said
    book = openpyxl.Workbook()
    for row in [("text", "label"), *((f"t {n}", n % 3) for n in range(30))]:
        book.active.append(row)
    book.save("d.xlsx")
    assert written("d.xlsx", "--sheet", "Sheet").row_to_examples.choices == ("0", "1", "2")  # type: ignore[union-attr]
    Path("odd.csv").write_bytes('text:label\n"a\\"":"x"\n'.encode("utf-16"))
    assert new(["odd.csv", "--delimiter", ":", "--encoding", "utf-16", "--out", "odd.py"]) == 0
    assert "DataFile('odd.csv', delimiter=':', encoding='utf-16')" in Path("odd.py").read_text()
