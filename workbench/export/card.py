"""The README of what is shipped."""

from collections.abc import Mapping, Sequence

from workbench.console import markdown


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
) -> str:
    """A model card in Markdown: what it is, from what it was made, what it scores, how it is loaded.

    Args:
        loading: how it is run, in `language`.
        library: as hubs call what runs it.
        notes: in Markdown, by their titles.
    """
    rows = "\n".join(f"| {markdown(name)} | {value} |" for name, value in scores)
    remarks = "".join(f"- **{name}:** {text}\n" for name, text in notes.items())
    base = checkpoint.replace("`", "'")
    return f"""---
library_name: {library}
tags: [workbench, {method}]
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
