"""What a format of exports is."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from transformers import GenerationConfig

# Of a position: ids of the likeliest tokens and their log-probabilities in nats, the likeliest first.
Likeliest = Sequence[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Continued:
    """What a runtime wrote behind a prompt.

    Attributes:
        tokens: ids, without that of the end of the turn.
        text: of the tokens.
        stopped: at the end of the turn, and not at the most tokens.
    """

    tokens: Sequence[int]
    text: str
    stopped: bool


class Runtime(Protocol):
    """An exported file in the software that will run it, in a process of its own."""

    def prompt_ids(self, conversations: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """Tokens of prompts, as the file's own chat template writes them.

        Args:
            conversations: `messages` and `tools`.

        Raises:
            RuntimeError: it has no template, or that fails.
        """

    def text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of texts, with the special ones that the file's tokenizer adds."""

    def continued(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, title: str = "") -> list[Continued]:
        """Greedy continuations of token ids.

        Args:
            title: in front of a progress bar; none for an empty one.
        """

    def likeliest(self, prefixes: Sequence[Sequence[int]], count: int, title: str = "") -> list[Likeliest]:
        """The `count` likeliest tokens behind each of some token ids."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """From what an export is made.

    Attributes:
        merged: folder of the merged checkpoint, which was proven.
        base, adapter: folders of the base, and of the adapter that was merged into it; none where there is no adapter.
        name: of the model, for whoever looks into a file.
        end_of_turn: id of the token that ends an answer.
        base_arguments: with which transformers loads the base that the adapter was scored on: `dtype`, and `bits` where
            bitsandbytes is to quantize it.
        loads_with: a module that makes PEFT know the method, where it doesn't by itself.
        generation: how answers were written; of an adapter, whose folder does not say so by itself.
    """

    merged: Path
    base: Path
    adapter: Path | None
    name: str
    end_of_turn: int
    base_arguments: Mapping[str, Any] = field(default_factory=lambda: {"dtype": "float32"})
    loads_with: str | None = None
    generation: "GenerationConfig | None" = None


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format that what was trained can be written in.

    Attributes:
        name: as users write it.
        summary: what runs it, in half a sentence.
        quantizations: how its weights can be held, the usual one first.
        rounded: of these, those that are coarser than what was scored: how far they are is for their score to say.
        write: sources, folder to write into, quantization. Raises UserError where the format can't hold the model, or
            what writes it is not installed.
        open: sources, the folder that `write` made, tokens of the longest prompt and its answer -> what runs it. Raises
            UserError where that is not installed.
        usage: the folder's name and sources -> how a user runs it, for the card, in `language`.
        library: as hubs call what runs it; None for the format's name.
        adapter: it is the adapter alone, and not what that was merged into.
        packages: what reads it back, of which the manifest says the versions.
    """

    name: str
    summary: str
    quantizations: tuple[str, ...]
    rounded: frozenset[str]
    write: Callable[[Sources, Path, str], None]
    open: Callable[[Sources, Path, int], AbstractContextManager[Runtime]]
    usage: Callable[[str, Sources], str]
    language: str = "python"
    library: str | None = None
    adapter: bool = False
    packages: tuple[str, ...] = ()
