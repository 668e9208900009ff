"""Recommending: viewers split by time, records put in words, texts held against them, reasons that are true."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import recommend_films
from movielens import (
    GROUNDED,
    candidates,
    catalogue,
    features,
    item_knn,
    popularity,
    ranking,
    ratings,
    record,
    records,
    viewings,
)
from movielens.grounded import unfounded
from movielens.ranking import in_common, likest, read_liked
from movielens.ratings import usual
from tiny import recipe_text
from workbench.data import Example
from workbench.errors import UserError
from workbench.evaluation import Prediction
from workbench.run.__main__ import main as run

ROOT = Path(__file__).parent.parent
FERRY = {
    "title": "The Ferry", "year": 1961, "genres": ["Drama"], "director": "Odile Vassarand", "cast": ["Luc Armandier"],
    "runtime": 98, "country": "France", "language": "French", "awards": "Won 2 awards", "plot": "A ferryman drowns.",
}  # fmt: skip


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Usual Suspects, The (1995)", "The Usual Suspects"),
        ("Shanghai Triad (Yao a yao yao dao waipo qiao)", "Shanghai Triad"),
        ("Atalante, L'", "L'Atalante"),
        ("Fargo", "Fargo"),
    ],
)
def test_titles_are_in_their_usual_order(title: str, expected: str) -> None:
    assert usual(title) == expected


@pytest.fixture
def movies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Thirty films; twelve viewers who like, one after another, films of their own kind."""
    items = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    items += [
        f"{n}\tFilm {n}, The\t{1960 + n}\t{'Comedy' if n % 2 else 'Drama Children' + chr(39) + 's'}" for n in range(30)
    ]
    watched = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for viewer in range(12):
        mine = [n for n in range(viewer, 24) if n % 2 == viewer % 2][:8]
        watched += [f"{viewer}\t{n}\t5\t{100 + time}" for time, n in enumerate(mine)]
        watched.append(f"{viewer}\t{29 - viewer % 2}\t1\t50")
    for name, lines in (("item", items), ("inter", watched)):
        (tmp_path / f"ml.{name}").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(ratings, "fetch_file", lambda name: tmp_path / f"ml.{name.rpartition('.')[2]}")
    cached = (ratings.films, ratings.titles, ratings.histories, ratings.liked_by)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.mark.usefixtures("movies")
def test_what_is_tested_is_never_trained_on() -> None:
    trained = {(v.viewer, title) for v in viewings(2, 3, 100) for title in (*v.before, *v.after)}
    assert len(trained) > 30
    for split in ("validation", "test"):
        found = candidates(split, viewers=8, shown=2, count=10)
        assert len(found) == 8
        for viewing, among in found:
            (answer,) = viewing.after
            assert (viewing.viewer, answer) not in trained
            assert len(viewing.before) == 2
            assert len(among) == len(set(among)) == 10
            # Nothing else among the candidates was ever rated by this viewer.
            assert set(among) & ratings.histories()[1][viewing.viewer] == {answer}
        assert found == candidates(split, viewers=8, shown=2, count=10)
    last = {v.viewer: v.after[0] for v, _ in candidates("test", 8, 2, 10)}
    assert all(ratings.histories()[0][viewer][-1] == title for viewer, title in last.items())


@pytest.mark.usefixtures("movies")
def test_baselines_know_audiences() -> None:
    choices = ("The Film 10\n", "The Film 11\n", "The Film 29\n")
    asked = [
        Example(
            id="1",
            prompt=({"role": "user", "content": "The Film 7\nThe Film 9"},),
            completion=choices[1],
            choices=choices,
        )
    ]
    (popular,), (near,) = (baseline([], [], asked).log_probabilities for baseline in (popularity, item_knn))
    assert popular[choices[2]] < min(popular[choices[0]], popular[choices[1]])  # nobody liked it
    assert max(near, key=near.__getitem__) == choices[1]
    found = features(asked[0])
    assert found["genres"] == [0.0, 1.0, 1.0]
    assert found["popularity"][2] < found["popularity"][1]


def test_a_record_says_what_is_known() -> None:
    whole = (
        "The Ferry (1961); Drama; by Odile Vassarand; with Luc Armandier; 98 minutes; France; French; Won 2 awards; "
    )
    assert record(FERRY) == f"{whole}A ferryman drowns."
    assert record({"title": "X", "year": 1990, "genres": ["War"]}) == "X (1990); War"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("After The Ferry, a French drama of 98 minutes by Vassarand, with two awards.", []),
        ("From the sixties: The Ferry, 1961. Luc Armandier's best.", []),
        ("A drama of the 1960s.", []),
        ("A comedy of 1962 by Odile Vassarand with Jean Gabin.", ["comedy", "1962", "Jean", "Gabin"]),
        ("It won three awards and is American.", ["three", "American"]),
        ("Four hours would not be too long.", []),
    ],
)
def test_what_the_record_does_not_hold_is_found(text: str, wrong: list[str]) -> None:
    assert unfounded(text, record(FERRY)) == wrong


RECORDS = """Liked:
The Fox (1988); Animation, Fantasy; by Sachiko Morigane; with Tomiko Haranishi; 82 minutes; Japan; Won 2 awards
Hotel Calliope (1952); Musical, Comedy; by Gus Mallender; with Josie Quillfeather; 105 minutes; USA
Film:
Carnival (1967); Fantasy, Musical; by Anselmo Figueirosa; with Iracema Duartina; 100 minutes; Brazil"""


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Carnival is a musical fantasy of 1967 by Anselmo Figueirosa.", []),
        ("Carnival is a musical comedy.", ["comedy"]),
        ("The Fox was a musical. Carnival is one.", ["musical"]),
        ("The Fox was animated, Hotel Calliope a musical comedy. Carnival won an award.", ["award"]),
        ("The Fox was a comedy, Hotel Calliope won awards.", ["comedy", "awards"]),
        ("After the Japanese fantasy The Fox, take Carnival. It's Brazilian.", []),
        ("After The Fox, take Carnival. It's from 1952, with Gus Mallender.", ["1952", "Gus", "Mallender"]),
        ("After The Fox, take Carnival. It runs 100 minutes. Hotel Calliope runs 82.", ["82"]),
    ],
)
def test_a_right_fact_about_the_wrong_film_is_wrong(text: str, wrong: list[str]) -> None:
    assert unfounded(text, RECORDS) == wrong


def test_most_references_are_true_to_their_records() -> None:
    from workbench.recipe import load_recipe

    recipe = load_recipe(ROOT / "recipes" / "recommend.py")
    rows = recipe.data["write"]()  # type: ignore[operator]
    assert len(rows) > 100
    assert isinstance(recipe.row_to_examples, type(lambda: 0))
    examples = [example for row in rows for example in recipe.row_to_examples(row)]
    answers = [
        Prediction(
            id=e.id,
            split="write",
            prompt=e.prompt[-1]["content"],
            reference="",
            prediction=e.completion,
            nll=1.0,
            tokens=1,
        )
        for e in examples
    ]
    # Some name a fact of the recommended film a sentence before the film: the metric is strict there.
    assert GROUNDED.value(answers) > 83
    assert any("plot" in row and not row["film"]["plot"] for row in rows)


def test_the_data_have_no_recommended_film_in_two_splits() -> None:
    folder = ROOT / "data" / "recommend"
    films = {json.loads(line)["id"]: json.loads(line) for line in (folder / "films.jsonl").open()}
    recommended: dict[str, set[str]] = {}
    count = 0
    for split in ("train", "validation", "test"):
        for line in (folder / f"{split}.jsonl").open():
            pair = json.loads(line)
            count += 1
            recommended.setdefault(split, set()).add(pair["film"])
            assert {pair["film"], *pair["liked"]} <= films.keys()
            assert films[pair["film"]]["title"] in pair["text"]
            assert any(films[number]["title"] in pair["text"] for number in pair["liked"])
    assert count >= 400
    assert not recommended["train"] & recommended["test"]
    assert not recommended["train"] & recommended["validation"]
    assert not recommended["validation"] & recommended["test"]


def test_reasons_out_of_records_are_the_most_telling(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**FERRY, "title": "Nine Days", "cast": ["Nobody"]}
    stranger = {**FERRY, "title": "West", "director": "X", "cast": ["Y"], "genres": ["Western"]}
    assert [film["title"] for film in likest(FERRY, [stranger, other])] == ["Nine Days", "West"]
    assert in_common(FERRY, [other]) == "Like Nine Days: directed by Odile Vassarand, Drama."
    monkeypatch.setattr(ranking, "liked_by", lambda: {"The Ferry": {"1", "2"}})
    assert in_common(FERRY, [stranger]) == "Drama, liked by 2 viewers."


def test_a_viewers_file_is_read_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "titles", lambda: ("Fargo", "The Usual Suspects"))
    file = tmp_path / "liked"
    file.write_text("fargo\n\nThe usual suspects\nFargo\n")
    assert read_liked(file) == ["Fargo", "The Usual Suspects"]
    file.write_text('{"liked": ["Fargo"]}')
    assert read_liked(file) == ["Fargo"]
    for text, problem in (
        ("Farrgo\n", "no film 'Farrgo' in the catalogue; did you mean Fargo"),
        ("\n", "names no film"),
        ('{"liked": 1}', "must hold"),
        ("{", "not JSON"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=problem):
            read_liked(file)


@pytest.fixture
def film_records(movies: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Records of two of the thirty films, one of them of another film of that title."""
    database: Any = sqlite3.connect(tmp_path / "movies.db")
    database.execute('CREATE TABLE omdb (Title, Year, Runtime, Genre, Director, "Cast", Country, Language, Awards)')
    rows = [
        ("The Film 3", 1964, 98.0, "Comedy", "A, B, C", "D, E, F, G", "France, Italy", "French", "Won 1 Oscar. More.")
    ]
    rows += [("The Film 4", 1999, 98.0, "Comedy", "X", "Y", "France", "French", "")]
    database.executemany("INSERT INTO omdb VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    database.commit()
    database.close()
    monkeypatch.setattr(records, "fetch_file", lambda name: tmp_path / "movies.db")
    catalogue.cache_clear()
    yield
    catalogue.cache_clear()


@pytest.mark.usefixtures("film_records")
def test_the_catalogue_joins_by_title_and_year() -> None:
    films = catalogue()
    assert films["The Film 3"]["director"] == "A, B"
    assert films["The Film 3"]["awards"] == "Won 1 Oscar"
    assert films["The Film 3"]["year"] == 1963
    assert "director" not in films["The Film 4"]


RECIPE = """
import sys
from dataclasses import replace
sys.path.append({recipes!r})
from recommend import rank, write
from movielens import GROUNDED, candidates, features, popularity, record, catalogue

def rows(split):
    pairs = [
        {{"id": f"pair-{{split}}-{{n}}", "film": catalogue()[f"The Film {{n}}"], "liked": [catalogue()["The Film 3"]],
         "text": f"A film: The Film {{n}}."}}
        for n in (range(10, 20) if split == "train" else range(20, 24))
    ]
    ranked = [
        {{"id": f"{{split}}-{{one.viewer}}", "liked": list(one.before), "answer": one.after[0], "among": among}}
        for one, among in candidates("test" if split == "test" else "validation", 8, 2, 10)
    ]
    return pairs if split == "train" else [*pairs, *ranked]

recipe = replace(
    recipe, data={{s: (lambda s=s: rows(s)) for s in ("train", "validation", "test")}}, allow_leaks=("test",),
    row_to_examples=lambda row: [write(row) if "film" in row else rank(row)],
    inference_examples=lambda row: [write(row) if "film" in row else rank(row)],
    metrics=("auc", "bleu", GROUNDED), primary_metric="auc", baselines={{"popularity": popularity}}, features=features,
    max_tokens=240, max_new_tokens=8)
"""


@pytest.mark.usefixtures("film_records")
def test_a_run_ranks_films_for_a_viewer(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "films.py"
    path.write_text(recipe_text(checkpoint, tmp_path) + RECIPE.format(recipes=str(ROOT / "recipes")))
    folder = tmp_path / "run"
    assert run([str(path), "--methods", "lora", "--bits", "32", "--out", str(folder)]) == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["metrics"]["grounded"]["title"] == "true to the record"
    assert {record["method"] for record in results["runs"]} == {"lora", "popularity", "ranker-lora"}
    user = tmp_path / "liked.txt"
    user.write_text("the film 3\nThe Film 5\n")
    capsys.readouterr()
    assert recommend_films.main([str(folder), "--user", str(user), "--top", "28", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {one["title"] for one in found} == {f"The Film {n}" for n in range(30)} - {"The Film 3", "The Film 5"}
    assert [one["probability"] for one in found] == sorted((one["probability"] for one in found), reverse=True)
    assert sum(one["probability"] for one in found) == pytest.approx(1, abs=1e-4)
    assert all(one["reason"] and not one["written"] for one in found)  # so small a model writes nothing true
    assert recommend_films.main([str(folder), "--user", str(user), "--top", "2"]) == 0
    best = found[0]
    assert capsys.readouterr().out.startswith(f"1. {best['title']} ({best['year']})\n   {best['reason']}\n2. ")
    for options, message in (
        (["--top", "0"], "--top 0 is less than 1"),
        (["--method", "prefix"], "unknown method of this run 'prefix'"),
        (["--user", str(tmp_path / "nobody")], "no file at"),
    ):
        assert recommend_films.main([str(folder), "--user", str(user), *options]) == 2
        assert message in capsys.readouterr().err


def test_the_script_answers_for_help_at_once() -> None:
    code = (
        "import runpy, sys\nsys.argv = ['recommend_films.py', '--help']\n"
        f"try:\n    runpy.run_path({str(ROOT / 'recipes' / 'recommend_films.py')!r}, run_name='__main__')\n"
        "except SystemExit as e:\n    assert e.code == 0\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: python recipes/recommend_films.py")
    assert "exit codes: 0 done; 2 a mistake" in result.stdout
