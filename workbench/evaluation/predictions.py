"""`predictions.jsonl`: what was asked, what should have been said, what was said."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench import files
from workbench.evaluation.prediction import Prediction

PREDICTIONS = "predictions.jsonl"


def write_predictions(folder: Path, answers: Sequence[Prediction], name: str = PREDICTIONS) -> None:
    """Write `predictions.jsonl`, or a file of the same form."""
    files.write_json_lines(folder / name, map(_prediction, answers))


def _prediction(answer: Prediction) -> dict[str, Any]:
    return {
        **answer.groups,
        "id": answer.id,
        "split": answer.split,
        "source": answer.source,
        "prompt": answer.prompt,
        "reference": answer.reference,
        "prediction": answer.prediction,
        "scores": {
            "reference_nats": answer.nll,
            "reference_tokens": answer.tokens,
            **({"choices": dict(answer.choices)} if answer.choices else {}),
        },
    }


def read_predictions(folder: Path, name: str = PREDICTIONS) -> list[Prediction]:
    """The answers in `predictions.jsonl` of a method that was carried through before, or in a file of the same form."""
    known = {"id", "split", "source", "prompt", "reference", "prediction", "scores"}
    return [
        Prediction(
            id=row["id"],
            split=row["split"],
            prompt=row["prompt"],
            reference=row["reference"],
            prediction=row["prediction"],
            nll=row["scores"]["reference_nats"],
            tokens=row["scores"]["reference_tokens"],
            groups={name: value for name, value in row.items() if name not in known},
            source=row["source"],
            choices=row["scores"].get("choices", {}),
        )
        for row in files.read_json_lines(folder / name)
    ]
