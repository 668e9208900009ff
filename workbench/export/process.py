"""A process in which checkpoints are read from disk as their users will."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors.torch import load_file

from workbench import files
from workbench.device import device
from workbench.script import Script

# Of a process that asks no hub for anything.
ALONE = {"HF_HUB_OFFLINE": "1", "USE_HUB_KERNELS": "0", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a checkpoint.

    Attributes:
        sequences: token ids.
        positions: of how many tokens at the end of each sequence the logits are asked for.
        states: of how many tokens at the end of the first sequence the hidden states are asked for.
        prompts: texts to continue.
        max_new_tokens: of an answer, at most.
        conversations: `messages` and `tools` of prompts, of which its chat template is to make tokens.
        texts: to be made tokens, with the special ones that its tokenizer adds.
    """

    sequences: Sequence[Sequence[int]]
    positions: Sequence[int]
    prompts: Sequence[str]
    states: int = 8
    max_new_tokens: int = 1
    conversations: Sequence[Mapping[str, Any]] = ()
    texts: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ReadBack:
    """What a fresh process found in a checkpoint.

    Attributes:
        logits: of each sequence, (positions, vocabulary); of a head of classes (1, classes).
        states: of the first sequence behind the embeddings and behind each layer, (layers + 1, tokens, width); None of
            a head of classes.
        texts: the continuations; of a head of classes, the likeliest class.
        prompt_ids: tokens of the conversations, up to where the answer begins.
        template_error: why its chat template could not write them.
        text_ids: tokens of the texts, with the special ones that its tokenizer adds.
        vocabulary: entries of its tokenizer.
        dtype: of its weights, such as "float32".
        config, generation: its `config.json` and `generation_config.json`, with all defaults.
        misfits: names of weights that it lacks, or that its architecture doesn't know, by what transformers calls them.
        not_finite: names of weights in which a number is infinite or none.
    """

    logits: Sequence[torch.Tensor]
    states: torch.Tensor | None
    texts: Sequence[str]
    prompt_ids: Sequence[Sequence[int]]
    template_error: str | None = None
    text_ids: Sequence[Sequence[int]]
    vocabulary: int
    dtype: str
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    misfits: Mapping[str, Sequence[str]]
    not_finite: Sequence[str]


class FreshProcess:
    """A process with transformers alone, in which checkpoints are read from disk, one after the other."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._script = Script(Path(__file__).with_name("reload.py"), environment=ALONE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._script.close()
        self._folder.cleanup()

    def begin(self) -> None:
        """Have it import what it needs while something else is done."""
        self._script.begin()

    def start(self) -> None:
        """Have it ready: its imports take longer than what it is asked.

        Raises:
            RuntimeError: it could not be started; the message says why.
        """
        self._ask({})

    def _ask(self, request: Mapping[str, str]) -> dict[str, Any]:
        """Its answer to a request, which stands in files.

        Raises:
            RuntimeError: it could not give one.
        """
        answer: dict[str, Any] = self._script.ask(request)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def read(self, checkpoint: Path, question: Question) -> ReadBack:
        """What it finds in the folder `checkpoint`.

        Raises:
            RuntimeError: transformers could not run it; the message says why.
        """
        folder = Path(self._folder.name)
        asked, answered = folder / "request.json", folder / "answer.safetensors"
        files.write_json(asked, vars(question))
        paths = {"checkpoint": checkpoint.resolve(), "request": asked, "answer": answered}
        answer = self._ask({**{name: str(path) for name, path in paths.items()}, "device": str(device())})
        tensors = load_file(answered)
        states = tensors.pop("states", None)
        return ReadBack(logits=[tensors[str(number)] for number in range(len(tensors))], states=states, **answer)
