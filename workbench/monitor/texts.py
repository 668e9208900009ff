"""Texts of a stream: lines that can be classified, and why the others can't."""

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from workbench.data import Example
from workbench.monitor.stream import MOST_BYTES, Line

# A clock may be ahead of ours by so much: a text of a later window closes the windows of all others.
AHEAD_SECONDS = 600.0
# Of an id, in UTF-8; so many are remembered.
MOST_ID_BYTES = 256
# A number as a text.
SECONDS = re.compile(r"\d+(\.\d+)?", re.ASCII)
# 1 January 3000: a number beyond it counts milliseconds.
LATEST = 32503680000

Ask = Callable[[Mapping[str, Any]], Sequence[Example]]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A line of the stream that can be classified.

    Attributes:
        row: the line's object, with `id`, `text` and whatever else the recipe asks with.
        seconds: its time, since 1970.
        asked: what the model is asked of it.
    """

    row: Mapping[str, Any]
    seconds: float
    asked: Sequence[Example]


def read_texts(lines: Sequence[Line], ask: Ask) -> tuple[list[Text], list[dict[str, Any]]]:
    """Texts with their times, and why the other lines are none."""
    texts, rejected = [], []
    for line in lines:
        if not line.content.strip():
            continue
        try:
            if line.end - line.start > MOST_BYTES:
                raise ValueError(f"a line of {line.end - line.start:,} bytes: more than {MOST_BYTES:,} are not read")
            texts.append(_text(line.content, ask))
        except Exception as error:  # noqa: BLE001  whatever is wrong with a line, the next ones must be read
            reason = f"no {error}" if isinstance(error, KeyError) else f"{error}"
            shown = line.content[:200].decode("utf-8", errors="replace")
            rejected.append({"reason": reason or type(error).__name__, "line": shown})
    return texts, rejected


def _text(content: bytes, ask: Ask) -> Text:
    try:
        row = json.loads(content)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"a line must be a JSON object, not {type(row).__name__}")
    missing = [name for name in ("id", "time", "text") if row.get(name) in (None, "")]
    if missing:
        raise ValueError(f"no {', '.join(missing)}")
    if not isinstance(row["text"], str) or isinstance(row["id"], (bool, list, dict)):
        raise ValueError("text must be a string, and id a string or a number")
    if isinstance(row["id"], float) and not math.isfinite(row["id"]):
        raise ValueError(f"id {row['id']} is no number")
    if len(str(row["id"]).encode()) > MOST_ID_BYTES:
        raise ValueError(f"id has more than {MOST_ID_BYTES} bytes")
    line_of(row).encode()  # or it could not be written
    return Text(row=row, seconds=_seconds(row["time"]), asked=ask(row))


def _seconds(value: Any) -> float:
    """Seconds since 1970 of an ISO 8601 time (in UTC, where it names no zone) or of a number, which may be a text."""
    wrong = f"time {str(value)[:40]!r} is neither seconds since 1970 nor of the form 2026-01-31T09:00:00Z"
    if isinstance(value, str) and SECONDS.fullmatch(value) and len(value) != len("20260131"):
        value = float(value)  # `fromisoformat` would read "1701010101234" as a minute of the year 1701
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0 <= value < LATEST:
            raise ValueError(f"{wrong}; are these milliseconds?" if value >= LATEST else wrong)
        seconds = float(value)
    else:
        try:
            moment = datetime.fromisoformat(value)
        except (TypeError, ValueError) as error:
            raise ValueError(wrong) from error
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if seconds < 0:
        raise ValueError(f"time {str(value)[:40]!r} lies before 1970")
    if seconds > time.time() + AHEAD_SECONDS:
        raise ValueError(f"time {str(value)[:40]!r} lies more than {AHEAD_SECONDS / 60:.0f} minutes in the future")
    return seconds


def iso(seconds: float) -> str:
    """A time as it is written."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def line_of(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON."""
    return json.dumps(row, ensure_ascii=False) + "\n"
