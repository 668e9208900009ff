"""What prepared data depend on, as one checksum."""

import hashlib
import json
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench import files
from workbench.data.columns import ByColumns
from workbench.data.pairs import EXAMPLES_SCHEMA, TOKENS_SCHEMA
from workbench.data.render import Renderer
from workbench.recipe import Recipe
from workbench.sources import DataFile, Fingerprint, Source
from workbench.version import __version__

# Files of a checkpoint's folder that say how its tokenizer works.
TOKENIZER_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.bpe")


def rows_key(recipe: Recipe, limit: int | None, recipe_sha256: str | None) -> str:
    """A checksum of all that the examples depend on, as far as it is known without reading them.

    That is the recipe's file, `limit`, the sources' files and what is said of them, the columns that were found, the
    seed of splits that are made, and the version of this project. Functions count by their names.
    """
    depends_on = {
        "recipe": recipe_sha256 or uuid.uuid4().hex,
        "sources": [[split, _known(source)] for split, source in recipe.sources.items()],
        "columns": repr(recipe.row_to_examples) if isinstance(recipe.row_to_examples, ByColumns) else None,
        "split_seed": recipe.split_seed,
        "limit": limit,
        "allow_leaks": sorted(recipe.allow_leaks),
        "version": __version__,
        "schema": EXAMPLES_SCHEMA,
    }
    return checksum(depends_on)


def data_key(rows: str, recipe: Recipe, renderer: Renderer) -> str:
    """The key of the examples, and a checksum of what their tokens depend on beside them.

    That is `max_tokens`, the checkpoint's name, its tokenizer and chat template, and the version of transformers.

    Args:
        rows: what `rows_key` gave.
    """
    depends_on = {
        "max_tokens": recipe.max_tokens,
        "allow_control_tokens": recipe.allow_control_tokens,
        "checkpoint": recipe.checkpoint,
        "tokenizer": _tokenizer(renderer),
        "version": metadata.version("transformers"),
        "schema": TOKENS_SCHEMA,
    }
    return f"{rows}-{checksum(depends_on)}"


def checksum(value: Any) -> str:
    """The first 32 digits of the sha256 of `value` as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _known(source: Source) -> str:
    if callable(source):
        return getattr(source, "__qualname__", type(source).__name__)
    options = source.options if isinstance(source, DataFile) else {}
    return f"{Fingerprint(source)}{options or ''}"


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
