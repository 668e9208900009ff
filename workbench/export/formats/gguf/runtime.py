"""A GGUF file in llama.cpp."""

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.export.formats.format import Continued, Likeliest
from workbench.export.formats.runtime import ask_in_lots
from workbench.script import Script

# What every vocabulary has, and by how much it is made likelier where no choice is asked for.
LETTER, CHOSEN = "a", 1e6
NEEDED = "format gguf needs llama.cpp, which writes and reads it: pip install xllamacpp"


def require_llama_cpp() -> None:
    """See that llama.cpp is installed.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise UserError(NEEDED)


class LlamaCpp:
    """llama.cpp's server in a process of its own; implements `Runtime`."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def _ask(self, path: str, bodies: Sequence[Mapping[str, Any]], title: str = "") -> list[Any]:
        return ask_in_lots(self._script, bodies, lambda some: {"path": path, "bodies": some}, title)

    def prompt_ids(self, conversations: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """See `Runtime`."""
        given = [{name: value for name, value in one.items() if value is not None} for one in conversations]
        texts = [answer["prompt"] for answer in self._ask("/apply-template", given)]
        return self._tokens(texts, add_special=True)

    def text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Runtime`."""
        return self._tokens(texts, add_special=True)

    def _tokens(self, texts: Sequence[str], add_special: bool) -> list[list[int]]:
        bodies = [{"content": text, "add_special": add_special, "parse_special": True} for text in texts]
        return [answer["tokens"] for answer in self._ask("/tokenize", bodies)]

    def continued(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, title: str = "") -> list[Continued]:
        """See `Runtime`."""
        settings = {"n_predict": max_new_tokens, "temperature": 0, "return_tokens": True, "cache_prompt": False}
        answers = self._ask("/completion", [{"prompt": list(ids), **settings} for ids in prompts], title)
        return [
            Continued(tokens=answer["tokens"], text=answer["content"].strip(), stopped=answer["stop_type"] == "eos")
            for answer in answers
        ]

    def likeliest(self, prefixes: Sequence[Sequence[int]], count: int, title: str = "") -> list[Likeliest]:
        """See `Runtime`."""
        # Told are the probabilities before any choice, but for an end of the turn or half a character none are: so a
        # plain letter is what is chosen.
        ((letter,),) = self._tokens([LETTER], add_special=False)
        settings = {
            "n_predict": 1, "temperature": 0, "n_probs": count, "cache_prompt": True, "logit_bias": [[letter, CHOSEN]],
        }  # fmt: skip
        answers = self._ask("/completion", [{"prompt": list(ids), **settings} for ids in prefixes], title)
        found: list[Likeliest] = []
        for answer in answers:
            first = answer["completion_probabilities"][0]["top_logprobs"]
            found.append([(one["id"], one["logprob"] if one["logprob"] is not None else -math.inf) for one in first])
        return found


@contextmanager
def opened(file: Path, context: int, adapter: Path | None = None) -> Iterator[LlamaCpp]:
    """llama.cpp with a file.

    Args:
        context: tokens of a prompt and its answer, at most.
        adapter: of LoRA, which is added to the model.

    Raises:
        UserError: llama.cpp is not installed.
    """
    require_llama_cpp()
    more = [str(adapter.resolve())] if adapter else []
    script = Script(Path(__file__).with_name("serve.py"), str(file.resolve()), str(context), *more)
    try:
        yield LlamaCpp(script)
    finally:
        script.close()
