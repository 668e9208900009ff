"""What prepared data depend on, as one checksum."""

import hashlib
import json
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench import files
from workbench.data.pairs import EXAMPLES_SCHEMA, TOKENS_SCHEMA
from workbench.data.render import Renderer
from workbench.recipe import Recipe
from workbench.sources import Fingerprint, Source
from workbench.version import __version__

# Files of a checkpoint's folder that say how its tokenizer works.
TOKENIZER_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.bpe")


def data_key(recipe: Recipe, renderer: Renderer, limit: int | None, recipe_sha256: str | None) -> str:
    """A checksum of all that the data depend on, as far as it is known without reading them.

    That is the recipe's file, `limit`, `max_tokens`, the checkpoint's name, its tokenizer and chat template, the
    sources' files and the versions of this project and of transformers. Functions count by their names.
    """
    depends_on = {
        "recipe": recipe_sha256 or uuid.uuid4().hex,
        "sources": [[split, _known(source)] for split, source in recipe.data.items()],
        "limit": limit,
        "max_tokens": recipe.max_tokens,
        "allow_leaks": sorted(recipe.allow_leaks),
        "checkpoint": recipe.checkpoint,
        "tokenizer": _tokenizer(renderer),
        "versions": [__version__, metadata.version("transformers")],
        "schemas": [EXAMPLES_SCHEMA, TOKENS_SCHEMA],
    }
    return checksum(depends_on)


def checksum(value: Any) -> str:
    """The first 32 digits of the sha256 of `value` as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _known(source: Source) -> str:
    return getattr(source, "__qualname__", type(source).__name__) if callable(source) else str(Fingerprint(source))


def _tokenizer(renderer: Renderer) -> dict[str, Any]:
    tokenizer = renderer.tokenizer
    found: dict[str, Any] = {"template": tokenizer.chat_template, "end_of_turn": renderer.end_of_turn}
    folder = Path(tokenizer.name_or_path or "none")
    if folder.is_dir():
        paths = sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)})
        found["files"] = {path.name: files.sha256_of(path) for path in paths}
    else:
        found["vocabulary"] = sorted(tokenizer.get_vocab().items())
    return found
