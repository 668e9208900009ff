"""Examples, and examples with their tokens, on disk: each example is written once, and its tokens refer to it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
import pyarrow.compute

from workbench.data.examples import Example
from workbench.data.store import OnDisk, Store, column

if TYPE_CHECKING:
    from datasets import Dataset

# An example as JSON, and where its row stands, for messages.
EXAMPLES_SCHEMA = {"example": pyarrow.string(), "place": pyarrow.string()}
# Tokens of the example at `index` of a file of examples.
TOKENS_SCHEMA = {
    "index": pyarrow.int64(),
    "id": pyarrow.string(),
    "text": pyarrow.string(),
    "prompt_ids": pyarrow.list_(pyarrow.int32()),
    "completion_ids": pyarrow.list_(pyarrow.int32()),
    "answer": pyarrow.string(),
}


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """An example as the model sees it.

    Attributes:
        id: the example's.
        text: the exact prompt text, template included.
        prompt_ids: tokens of the prompt.
        completion_ids: tokens of the answer, the end-of-turn token last; only these are trained on.
        answer: as the chat template writes it, where the answer is more than the example's `completion`.
    """

    id: str
    text: str
    prompt_ids: list[int]
    completion_ids: list[int]
    answer: str = ""

    @property
    def length(self) -> int:
        """Tokens of prompt and completion together."""
        return len(self.prompt_ids) + len(self.completion_ids)


class Examples(OnDisk[Example]):
    """Some of the examples of a file.

    Args:
        whole: all of the file, with the columns of `EXAMPLES_SCHEMA`.
        indices: which of them, in their order, (examples,); None takes all.
    """

    def __init__(self, whole: "Dataset", indices: np.ndarray | None = None) -> None:
        some = whole if indices is None or len(indices) == len(whole) else whole.select(indices)
        super().__init__(some, _examples)
        self.whole = whole
        self.indices = np.arange(len(whole)) if indices is None else indices


def write_examples(store: Store, name: str, examples: Iterable[Example]) -> Examples:
    """Write `examples` of no source, whose places are their ids."""
    records = ({"example": example.to_json(), "place": example.id} for example in examples)
    return Examples(store.write(name, records, EXAMPLES_SCHEMA))


class Pairs(OnDisk[tuple[Example, Rendered]]):
    """Examples with their tokens.

    Args:
        tokens: with the columns of `TOKENS_SCHEMA`.
        examples: the whole file of examples to which the tokens' `index` refers.
    """

    def __init__(self, tokens: "Dataset", examples: "Dataset") -> None:
        super().__init__(tokens, partial(_pairs, examples.select_columns("example")))
        self._examples = examples

    def part(self, indices: Sequence[int]) -> "Pairs":
        """Those at `indices`, in their order."""
        return Pairs(self.dataset.select(indices), self._examples)

    @property
    def rendered(self) -> OnDisk[Rendered]:
        """The tokens alone."""
        return OnDisk(self.dataset.remove_columns("index"), _rendered)

    @property
    def completion_lengths(self) -> np.ndarray:
        """Tokens of each completion, (examples,)."""
        return self._lengths("completion_ids")

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each prompt and completion together, (examples,)."""
        return self._lengths("prompt_ids") + self.completion_lengths

    def _lengths(self, name: str) -> np.ndarray:
        lengths: np.ndarray = pyarrow.compute.list_value_length(column(self.dataset, name)).to_numpy()
        return lengths


def _examples(records: Sequence[Mapping[str, Any]]) -> list[Example]:
    return [Example.from_json(record["example"]) for record in records]


def _rendered(records: Sequence[Mapping[str, Any]]) -> list[Rendered]:
    return [Rendered(**{name: value for name, value in record.items() if name != "index"}) for record in records]


def _pairs(whole: "Dataset", records: Sequence[Mapping[str, Any]]) -> list[tuple[Example, Rendered]]:
    lines = whole[[record["index"] for record in records]]["example"] if records else []
    pairs = zip((Example.from_json(line) for line in lines), _rendered(records), strict=True)
    return [(replace(e, completion=r.answer) if r.answer else e, r) for e, r in pairs]
