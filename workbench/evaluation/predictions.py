"""`predictions.jsonl`: what was asked, what should have been said, what was said."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench import files
from workbench.evaluation.prediction import Prediction

PREDICTIONS = "predictions.jsonl"
# Groups stand in a row under their own names, but for those that a row has anyway.
FIXED = frozenset({"id", "split", "source", "prompt", "reference", "references", "prediction", "scores"})
NESTED = "groups"


def write_predictions(folder: Path, answers: Sequence[Prediction], name: str = PREDICTIONS) -> None:
    """Write `predictions.jsonl`, or a file of the same form."""
    files.write_json_lines(folder / name, map(_prediction, answers))


def _prediction(answer: Prediction) -> dict[str, Any]:
    hidden = answer.groups.keys() & FIXED
    if hidden:
        hidden |= answer.groups.keys() & {NESTED}
    return {
        **{name: value for name, value in answer.groups.items() if name not in hidden},
        **({NESTED: {name: value for name, value in answer.groups.items() if name in hidden}} if hidden else {}),
        "id": answer.id,
        "split": answer.split,
        "source": answer.source,
        "prompt": answer.prompt,
        "reference": answer.reference,
        **({"references": list(answer.all_references)} if answer.references else {}),
        "prediction": answer.prediction,
        "scores": {
            "reference_nats": answer.nll,
            "reference_tokens": answer.tokens,
            **({"choices": dict(answer.choices)} if answer.choices else {}),
            **({"upper_bounds": sorted(answer.bounds)} if answer.bounds else {}),
            **({"right": list(answer.right)} if answer.right is not None else {}),
            **({"chosen": list(answer.chosen)} if answer.chosen is not None else {}),
        },
    }


def read_predictions(folder: Path, name: str = PREDICTIONS) -> list[Prediction]:
    """The answers in `predictions.jsonl` of a method that was carried through before, or in a file of the same form."""
    return [
        Prediction(
            id=row["id"],
            split=row["split"],
            prompt=row["prompt"],
            reference=row["reference"],
            prediction=row["prediction"],
            nll=row["scores"]["reference_nats"],
            tokens=row["scores"]["reference_tokens"],
            groups=_groups(row),
            source=row["source"],
            choices=row["scores"].get("choices", {}),
            bounds=frozenset(row["scores"].get("upper_bounds", ())),
            right=_labels(row["scores"].get("right")),
            chosen=_labels(row["scores"].get("chosen")),
            references=tuple(row["references"][1:]) if isinstance(row.get("references"), list) else (),
        )
        for row in files.read_json_lines(folder / name)
    ]


def _labels(names: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def _groups(row: Mapping[str, Any]) -> dict[str, str]:
    flat = {name: value for name, value in row.items() if name not in FIXED}
    if isinstance(row.get("references"), str):  # a group of that name, as version 0.1 wrote it
        flat["references"] = row["references"]
    nested = flat.pop(NESTED) if isinstance(flat.get(NESTED), dict) else {}
    return {**flat, **nested}
