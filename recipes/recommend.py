"""What to watch next: rank films for a viewer, and say in a sentence or two why.

Two tasks, one model. *Rank*: given the titles that a viewer liked, which of 100 films does this viewer go on to
like? *Write*: given the records of a film and of films that were liked, recommend it for a reason that is true.
What we expected: likelihood of titles knows what goes with what, popularity what is watched at all, and a small ranker
that puts both together leads. What came: it is better than popularity, but counting who liked both (`item_knn`) is
better still. A tuned model writes more often what the record says than the untuned one, which makes things up.

Data: MovieLens 100K (its terms allow non-commercial use only) from the package recbole, films' records (CC0)
from bokeh-sampledata, and `data/recommend`, written for this project: see its README. A finished run
is used by `python recipes/recommend_films.py`.
"""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from movielens import GROUNDED, candidates, features, item_knn, popularity, record, viewings
from workbench import Recipe, Training
from workbench.data import Example, Message
from workbench.sources import SMOLLM2

DATA = Path(__file__).parent.parent / "data" / "recommend"
SHOWN = 12  # titles in a prompt
BEFORE, FOLLOWING = 8, 64  # in training: titles in a prompt, and titles behind it that are learned together
LATEST = 120  # titles that are learned of each viewer
CANDIDATES = 100
VIEWERS = {"validation": 60, "test": 250}
Row = dict[str, Any]


def watched() -> list[Row]:
    """For training: what viewers liked, and what they liked then."""
    found = viewings(BEFORE, FOLLOWING, most=LATEST)
    return [
        {"id": f"viewer-{number}", "liked": list(one.before), "next": list(one.after)}
        for number, one in enumerate(found)
    ]


def ranking(split: str) -> list[Row]:
    """For scoring: what a viewer liked next, among films that this viewer has not rated."""
    found = candidates(split, VIEWERS[split], SHOWN, CANDIDATES)
    return [
        {"id": f"{split}-{one.viewer}", "liked": list(one.before), "answer": one.after[0], "among": among}
        for one, among in found
    ]


def pairs(split: str) -> list[Row]:
    """Texts with the records that they were written from; where a text tells no plot, its writer knew none."""
    lines = (DATA / "films.jsonl").read_text(encoding="utf-8").splitlines()
    films = {film["id"]: film for film in map(json.loads, lines)}
    found = []
    for line in (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        known = films if pair["plot"] else {number: {**film, "plot": ""} for number, film in films.items()}
        found.append({**pair, "film": known[pair["film"]], "liked": [known[number] for number in pair["liked"]]})
    return found


def both(split: str) -> Callable[[], list[Row]]:
    """Rows of both tasks, mixed."""

    def rows() -> list[Row]:
        mixed = [*(watched() if split == "train" else ranking(split)), *pairs(split)]
        random.Random(0).shuffle(mixed)
        return mixed

    return rows


def rank(row: Mapping[str, Any]) -> Example:
    """Which film next? Titles end in a line break, so that none begins another."""
    answer = row.get("answer")
    return Example(
        id=str(row["id"]),
        prompt=(Message(role="system", content="Next"), Message(role="user", content="\n".join(row["liked"][-SHOWN:]))),
        completion=f"{answer}\n" if answer else "".join(f"{title}\n" for title in row.get("next", ())),
        choices=tuple(f"{title}\n" for title in row.get("among", ())),
        task="rank",
    )


def write(row: Mapping[str, Any]) -> Example:
    """Recommend this film to someone who liked those."""
    liked = "\n".join(map(record, row["liked"]))
    asked = f"Liked:\n{liked}\nFilm:\n{record(row['film'])}"
    return Example(
        id=str(row["id"]),
        prompt=(Message(role="system", content="Recommend"), Message(role="user", content=asked)),
        completion=row.get("text", ""),
        task="write",
    )


def examples(row: Mapping[str, Any]) -> list[Example]:
    """One example a row: a film's record asks for a text, titles alone for a title."""
    return [write(row) if "film" in row else rank(row)]


recipe = Recipe(
    checkpoint=SMOLLM2,
    data={
        "train": both("train"),
        "validation": both("validation"),
        "write": lambda: pairs("test"),
        "rank": lambda: ranking("test"),
    },
    row_to_examples=examples,
    inference_examples=examples,
    methods=("untuned", "parallel"),
    metrics=("auc", "hit_10", "ndcg_10", "bleu", "rouge_l", GROUNDED),
    primary_metric="auc",
    baselines={"popularity": popularity, "item_knn": item_knn},
    features=features,
    max_tokens=640,
    max_new_tokens=72,
    training=Training(num_train_epochs=1.5, batch_size=4, validations=2),
    settings={"parallel": {"learning_rate": 2e-3, "bottleneck_size": 256}},
)
