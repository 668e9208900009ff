"""The README of what is shipped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.console import markdown
from workbench.results import Score


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A score as the hub knows it.

    Attributes:
        task: as the hub calls it, such as "text-generation".
        data, split: on which it was measured: the recipe's name, and the split.
        metric, title: its name, and as people read it.
        score: with its 95 % interval.
    """

    task: str
    data: str
    split: str
    metric: str
    title: str
    score: Score


def _metadata(title: str, method: str, library: str, measured: Sequence[Measured]) -> str:
    """The card's front matter, which the hub reads: YAML in which no text of a recipe is anything but a text."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=one.task,
            dataset_type=one.data,
            dataset_name=one.data,
            dataset_split=one.split,
            metric_type=one.metric,
            metric_name=one.title,
            metric_value=round(one.score.value, 4),
            metric_args={"low": round(one.score.low, 4), "high": round(one.score.high, 4)},
        )
        for one in measured
    ]
    indexed: dict[str, Any] = {"model_name": title, "eval_results": results} if results else {}
    data: Any = ModelCardData(library_name=library, tags=["workbench", method], **indexed)
    return str(data.to_yaml()).rstrip()


def model_card(
    *,
    title: str,
    checkpoint: str,
    licence: str,
    method: str,
    summary: str,
    recipe: str,
    seed: int,
    bits: int,
    examples: int,
    scores: Sequence[tuple[str, str]],
    loading: str,
    language: str = "python",
    library: str = "transformers",
    notes: Mapping[str, str],
    measured: Sequence[Measured] = (),
) -> str:
    """A model card in Markdown: what it is, from what it was made, what it scores, how it is loaded.

    Args:
        loading: how it is run, in `language`.
        library: as hubs call what runs it.
        notes: in Markdown, by their titles.
        measured: the same scores for machines: the hub's `model-index`.
    """
    rows = "\n".join(f"| {markdown(name)} | {value} |" for name, value in scores)
    remarks = "".join(f"- **{name}:** {text}\n" for name, text in notes.items())
    base = checkpoint.replace("`", "'")
    return f"""---
{_metadata(title, method, library, measured)}
---
# {markdown(title)}

`{base}` tuned by `{method}` ({summary}) with the recipe {markdown(recipe)} on {examples} examples, seed {seed},
the frozen weights held at {bits} bits while training.

- **Licence of the base:** {markdown(licence)}. It binds what is made from it, this model included.
{remarks}
## Scores

On examples that were not trained on, with 95 % bootstrap intervals.

| metric | value |
|---|---|
{rows}

## Loading

```{language}
{loading}
```
"""
