"""The data as they were found, for `--check`: each source's form, what became of its rows, what is not used."""

from collections.abc import Mapping

from workbench.data.reading import Found
from workbench.data.splits import WHOLE
from workbench.run.prepare import Job


def data_text(job: Job) -> str:
    """Each source: in what form it is, what was made of its rows, what is not used."""
    lines = ["## Data"]
    shown: dict[str, list[str]] = {}
    for name, found in job.data.found.items():
        shown.setdefault("\n".join(_found(found)), []).append(name)
    for text, names in shown.items():
        lines += [f"{', '.join(names)}: {text}"]
    if not isinstance(job.recipe.data, Mapping):
        lines.append(
            f"divided into {', '.join(job.recipe.splits)} by chance (seed {job.recipe.split_seed}), every class in its "
            "share; the same question or conversation stands in one of them only"
        )
    return "\n".join(lines)


def _found(found: Found) -> list[str]:
    lines = [f"{found.source}: {found.format}; {found.rows} rows"]
    lines += [f"  {count} rows read as {shape}" for shape, count in found.shapes.items()]
    columns = ", ".join(
        f"{name} ({count} of {found.rows} filled)" if count < found.rows else name
        for name, count in found.columns.items()
    )
    lines.append(f"  columns: {columns}")
    if found.unused:
        lines.append(f"  not used: {', '.join(found.unused)}")
    if "id" not in found.columns:
        lines.append("  no id: the place of a row is its id")
    return [*lines, *(f"  {count} times: {remark}" for remark, count in found.remarks.items())]


def deduplicated(job: Job) -> str:
    """Where repeated examples were left out: in the training split, or in the source of all splits."""
    return "train" if isinstance(job.recipe.data, Mapping) else job.data.found[WHOLE].source
