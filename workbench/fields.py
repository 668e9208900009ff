"""The types of a dataclass's fields, held against what a user gave."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", type(None): "None"}


def wrong_types(values: Any) -> list[str]:
    """What is of another type than its field is declared with, a line each.

    Args:
        values: an instance of a dataclass.
    """
    kind: Any = type(values)
    return [
        _told(field.name, hint, value)
        for field, hint in zip(fields(values), _hints(kind), strict=True)
        if not _is_default(field, value := getattr(values, field.name)) and not _fits(kind, field.name, value)
    ]


def _is_default(field: "Field[Any]", value: Any) -> bool:
    return field.default is not MISSING and value is field.default


@cache
def _hints(kind: Any) -> tuple[Any, ...]:
    hints = get_type_hints(kind)
    return tuple(hints[field.name] for field in fields(kind))


@cache
def _adapter(kind: Any, name: str) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    hint = dict(zip((field.name for field in fields(kind)), _hints(kind), strict=True))[name]
    configured = None if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__") else ConfigDict(
        arbitrary_types_allowed=True, strict=True
    )  # fmt: skip
    return TypeAdapter(hint, config=configured)


def _fits(kind: Any, name: str, value: Any) -> bool:
    from pydantic import ValidationError

    if isinstance(value, Mapping):
        # pydantic makes new ones of the same type, which not every type lets it
        value = {key: dict(inner) if isinstance(inner, Mapping) else inner for key, inner in value.items()}
    try:
        _adapter(kind, name).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _told(name: str, hint: Any, value: Any) -> str:
    if isinstance(value, str) and get_origin(hint) is Sequence:
        return f"{name} is the text {value!r}: with a comma it is a tuple, {name}=({value!r},)"
    shown = repr(value)
    return f"{name} must be {_described(hint)}, not {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _described(hint: Any) -> str:
    """A type in words."""
    kinds = get_args(hint) if get_origin(hint) is not Sequence and type(None) in get_args(hint) else (hint,)
    return " or ".join(NAMES.get(kind) or _written(kind) for kind in kinds)


def _written(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    for module in ("collections.abc.", "typing.", "pathlib.", "workbench.sources.readers.reader.", "workbench.recipe."):
        text = text.replace(module, "")
    return text
