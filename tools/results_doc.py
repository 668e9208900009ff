"""`docs/results.md`: what every field of `results.json` means, from the docstrings of `workbench.results`.

python tools/results_doc.py > docs/results.md
"""

import dataclasses
import inspect
import re

from workbench import results

HEAD = """# results.json

What every field means; written by `python tools/results_doc.py` from the docstrings of `workbench/results/`.
Fields that have nothing to say are left out of the file. Times are seconds, memory is bytes, losses are nats per token
unless something else is said. From Python: `workbench.load_run(DIR).results`.
"""
# From the whole to its parts.
ORDER = (
    "Results", "RunRecord", "Score", "ExportRecord", "Changes", "Usage", "Forecast", "SeedsRecord", "Comparison",
    "MetricInfo", "CheckpointInfo", "DataInfo", "SplitInfo", "SplitContents", "NearCopies", "TuningRecord",
    "TuningTrial", "CurveRecord", "CurvePoint", "Crossing", "Budget", "Seconds", "Price",
)  # fmt: skip


def meanings(record: type) -> list[tuple[list[str], str]]:
    """Fields that are told of together, and what the docstring says of them.

    Raises:
        ValueError: of some field nothing is said.
    """
    text = (inspect.getdoc(record) or "").partition("Attributes:\n")[2]
    said = re.findall(r"^    (\w[\w, ]*): ((?:.|\n(?!    \w[\w, ]*: ))+)", text, re.MULTILINE)
    found = [([name.strip() for name in names.split(",")], " ".join(meaning.split())) for names, meaning in said]
    told = {name for names, _ in found for name in names}
    if missing := [field.name for field in dataclasses.fields(record) if field.name not in told]:
        raise ValueError(f"{record.__name__}: nothing is said of {', '.join(missing)}")
    return found


def page() -> str:
    """All of it as Markdown."""
    parts = [HEAD]
    for name in ORDER:
        record = getattr(results, name)
        types = {field.name: _type(field.type) for field in dataclasses.fields(record)}
        summary = " ".join((inspect.getdoc(record) or "").partition("\n\n")[0].split())
        rows = [
            _row(", ".join(f"`{field}`" for field in names), ", ".join(dict.fromkeys(types[n] for n in names)), said)
            for names, said in meanings(record)
        ]
        head = [f"## {name}", "", summary, "", "| field | type | meaning |", "|---|---|---|"]
        parts.append("\n".join([*head, *rows, ""]))
    return "\n".join(parts)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _type(annotation: object) -> str:
    """A field's type, with links to the tables of others."""
    text = re.sub(r"[\w.]+\.(\w+)", r"\1", str(annotation) if not isinstance(annotation, type) else annotation.__name__)
    linked = re.sub(rf"\b({'|'.join(ORDER)})\b", lambda name: f"[{name[1]}](#{name[1].lower()})", text)
    return linked.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
