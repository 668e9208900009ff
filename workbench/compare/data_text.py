"""What the data of a run are, in words: for `--check` and for the report."""

from workbench.results import DataInfo, NearCopies, SplitContents

LABELS_SHOWN = 8


def near_text(near: NearCopies) -> str:
    """What was found of near copies in two splits, in a sentence."""
    where = "of others before them" if near.split == near.of else f"of examples of {near.of}"
    shown = ", ".join(f"{one} of {other} ({similarity:.2f})" for one, other, similarity in near.shown)
    return (
        f"{near.examples} examples of {near.split} are near copies {where}, {near.same_answer} with the same answer: "
        f"{shown}"
    )


def answers_texts(contents: SplitContents) -> list[str]:
    """How often each label stands there, and how many answers are written, in a line each."""
    said = []
    for task, counts in contents.labels.items():
        shown = [f"{label} {count}" for label, count in list(counts.items())[:LABELS_SHOWN]]
        more = f" and {len(counts) - LABELS_SHOWN} more" if len(counts) > LABELS_SHOWN else ""
        said.append(f"{task or 'labels'}: {', '.join(shown)}{more}")
    if contents.written:
        said.append(f"{contents.written} written answers, {contents.distinct} of them different")
    return said


def data_rows(data: DataInfo) -> list[list[str]]:
    """A row of cells for each split: its name, examples, tokens of an example, what its answers are, remarks."""
    found = []
    for split, info in data.splits.items():
        lengths = info.lengths or {}
        told = f"{lengths['median']}, at most {lengths['longest']}" if lengths else "-"
        answers = "; ".join(answers_texts(info.contents)) if info.contents else ""
        said = [f"{len(info.too_long)} left out as too long"] if info.too_long else []
        found.append([split, str(info.examples), told, answers, "; ".join([*said, *info.remarks])])
    return found
