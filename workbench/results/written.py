"""`results.json`, read and written.

Fields with a default stand in the file only where there is something to say.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench import files
from workbench.errors import UserError
from workbench.results.whole import SCHEMA, Results

# In the file even where there is nothing to say: scripts rely on them.
ALWAYS = {
    "ExportRecord": ("reason", "max_abs_logit_difference", "greedy_agreement"),
    "RunRecord": ("error", "metrics", "train_tokens_per_second", "learning_rate", "warning"),
    "Results": ("runs", "comparisons"),
    "Budget": ("minutes",),
}


def to_json(value: Any) -> Any:
    """A dataclass of this module as what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        always = ALWAYS.get(type(value).__name__, ())
        return {
            f.name: to_json(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.name in always or _required(f) or not _says_nothing(getattr(value, f.name), f)
        }
    if isinstance(value, Mapping):
        return {name: to_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    return value


def _says_nothing(value: Any, f: "dataclasses.Field[Any]") -> bool:
    """Whether a field need not stand in the file: it is empty, or a zero by default."""
    return value in (None, (), {}, [], False) and (value != 0 or value is False or value == f.default)


def _required(f: "dataclasses.Field[Any]") -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def write_results(file: Path, results: Results) -> None:
    """Write `results` as JSON, whole or not at all."""
    files.write_json(file, to_json(results))


def read_results(file: Path) -> Results:
    """Read what `write_results` wrote.

    Raises:
        UserError: the file is of an older or newer form, or is damaged; the message says what to do.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        schema = values.get("schema", 1)
    except (ValueError, AttributeError, OSError, RecursionError) as error:
        raise UserError(f"{file} can't be read as results of a run: {error}") from error
    if schema != SCHEMA:
        older = "an older" if isinstance(schema, int) and schema < SCHEMA else "another"
        raise UserError(
            f"{file} is of schema {schema}, written by {older} version of workbench; this one reads {SCHEMA}: use that "
            "version with this folder, or run the recipe again"
        )
    try:
        return TypeAdapter(Results).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{file} is damaged at {where}: {first['msg']}; run the recipe again") from error
