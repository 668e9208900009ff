"""What the data of a run are, in words: for `--check` and for the report."""

from workbench.compare.language import say
from workbench.results import DataInfo, NearCopies, SplitContents

LABELS_SHOWN = 8


def near_text(near: NearCopies) -> str:
    """What was found of near copies in two splits, in a sentence."""
    shown = [say("{one} of {other} ({similarity:.2f})", one=a, other=b, similarity=c) for a, b, c in near.shown]
    told = {"examples": near.examples, "split": near.split, "same": near.same_answer, "shown": say(", ").join(shown)}
    if near.split == near.of:
        return say(
            "{examples} examples of {split} are near copies of others before them, {same} with the same answer: "
            "{shown}",
            **told,
        )
    return say(
        "{examples} examples of {split} are near copies of examples of {of}, {same} with the same answer: {shown}",
        **told,
        of=near.of,
    )


def answers_texts(contents: SplitContents) -> list[str]:
    """How often each label stands there, and how many answers are written, in a line each."""
    said = []
    for task, counts in contents.labels.items():
        shown = [f"{label} {count}" for label, count in list(counts.items())[:LABELS_SHOWN]]
        if len(counts) > LABELS_SHOWN:
            shown.append(say("{count} more labels", count=len(counts) - LABELS_SHOWN))
        said.append(f"{task or say('labels')}: {say(', ').join(shown)}")
    if contents.written:
        told = {"written": contents.written, "distinct": contents.distinct}
        said.append(say("{written} written answers, {distinct} of them different", **told))
    return said


def data_rows(data: DataInfo) -> list[list[str]]:
    """A row of cells for each split: its name, examples, tokens of an example, what its answers are, remarks."""
    found = []
    for split, info in data.splits.items():
        lengths, told = info.lengths, "-"
        if lengths:
            told = say("{median}, at most {longest}", median=lengths["median"], longest=lengths["longest"])
        answers = "; ".join(answers_texts(info.contents)) if info.contents else ""
        said = [say("{count} left out as too long", count=len(info.too_long))] if info.too_long else []
        found.append([split, str(info.examples), told, answers, "; ".join([*said, *info.remarks])])
    return found
