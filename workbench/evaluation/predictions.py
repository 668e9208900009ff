"""`predictions.jsonl`: what was asked, what should have been said, what was said."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench import files
from workbench.evaluation.answers import Answer


def write_answers(folder: Path, answers: Sequence[Answer]) -> None:
    """Write `predictions.jsonl`."""
    files.write_json_lines(folder / "predictions.jsonl", map(_prediction, answers))


def _prediction(answer: Answer) -> dict[str, Any]:
    return {
        **answer.groups,
        "id": answer.id,
        "split": answer.split,
        "source": answer.source,
        "prompt": answer.prompt,
        "reference": answer.reference,
        "prediction": answer.prediction,
        "scores": {"reference_nats": answer.nats, "reference_tokens": answer.tokens},
    }


def read_answers(folder: Path) -> list[Answer]:
    """The answers in `predictions.jsonl` of a method that was carried through before."""
    known = {"id", "split", "source", "prompt", "reference", "prediction", "scores"}
    return [
        Answer(
            id=row["id"],
            split=row["split"],
            prompt=row["prompt"],
            reference=row["reference"],
            prediction=row["prediction"],
            nats=row["scores"]["reference_nats"],
            tokens=row["scores"]["reference_tokens"],
            groups={name: value for name, value in row.items() if name not in known},
            source=row["source"],
        )
        for row in files.read_json_lines(folder / "predictions.jsonl")
    ]
