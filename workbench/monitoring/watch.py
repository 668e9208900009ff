"""The watch itself: lines in; classified items, rejected lines and alerts out; nothing lost or repeated by a restart.

Each batch is committed in one step: outputs are appended and synced, then `state.json`, which names how far the stream
was read and how long the outputs are, is replaced. A restart cuts the outputs to that length and reads on from there.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench import files
from workbench.data import Example
from workbench.errors import UserError
from workbench.monitoring.stream import Line
from workbench.monitoring.surge import Surges, Window

STATE = "state.json"
ITEMS, ALERTS, REJECTED = "items.jsonl", "alerts.jsonl", "rejected.jsonl"
# Windows of each topic that are kept for the picture.
SHOWN = 120


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


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the model makes of a text.

    Attributes:
        topic: what it is about.
        sentiment: the likeliest.
        probability: that it is negative.
    """

    topic: str
    sentiment: str
    probability: float


Ask = Callable[[Mapping[str, Any]], Sequence[Example]]
Classify = Callable[[Sequence[Text]], Sequence[Verdict]]


@dataclass
class Topic:
    """What is known of a topic: its open window, and the windows before."""

    surges: Surges
    start: float | None = None
    texts: int = 0
    negative: int = 0
    late: int = 0
    shown: list[Window] = field(default_factory=list)


@dataclass
class Watch:
    """The state of a watch in a folder.

    Attributes:
        folder: where everything goes.
        window_seconds: length of a window.
        false_alarms: chance that a quiet topic raises an alert in a window.
        history: quiet windows that a new one is held against, at most.
        negative: the sentiment that is counted.
        offset: bytes of the stream that have been dealt with.
        counts: items and rejected lines so far.
    """

    folder: Path
    window_seconds: float
    false_alarms: float
    history: int
    negative: str = "negative"
    offset: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {"items": 0, "rejected": 0, "alerts": 0})
    topics: dict[str, Topic] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=lambda: dict.fromkeys((ITEMS, ALERTS, REJECTED), 0))

    def settings(self) -> dict[str, Any]:
        """What must not change when a watch goes on."""
        return {
            "window_seconds": self.window_seconds,
            "false_alarms": self.false_alarms,
            "history": self.history,
            "negative": self.negative,
        }

    def resume(self) -> None:
        """Go on from what `folder` holds; begin anew if it holds nothing.

        Raises:
            UserError: it was begun with other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / STATE
        if file.is_file():
            state = json.loads(file.read_text(encoding="utf-8"))
            if state["settings"] != self.settings():
                raise UserError(
                    f"{self.folder} was begun with other settings ({_named(state['settings'])}): "
                    "give these, or another --out"
                )
            self.offset, self.counts, self.lengths = state["offset"], state["counts"], state["lengths"]
            self.topics = {name: self._topic(values) for name, values in state["topics"].items()}
        for name, length in self.lengths.items():
            with (self.folder / name).open("ab") as output:
                output.truncate(length)

    def _topic(self, state: dict[str, Any] | None = None) -> Topic:
        if state is None:
            return Topic(Surges(self.false_alarms, self.history))
        return Topic(
            surges=Surges.restored(state["surges"], self.false_alarms, self.history),
            start=state["start"],
            texts=state["texts"],
            negative=state["negative"],
            late=state["late"],
            shown=[Window(**window) for window in state["shown"]],
        )

    def take(self, lines: Sequence[Line], ask: Ask, classify: Classify) -> list[dict[str, Any]]:
        """Deal with lines of the stream, and commit what came of them.

        Args:
            ask: what is asked of a line's object; raises ValueError, KeyError or TypeError for one it can't use.

        Returns:
            The alerts that they raised.
        """
        texts, rejected = read_texts(lines, ask)
        verdicts = classify(texts) if texts else []
        items: list[dict[str, Any]] = []
        alerts: list[dict[str, Any]] = []
        for text, verdict in zip(texts, verdicts, strict=True):
            alerts += self._count(text.seconds, verdict)
            items.append(
                {
                    "id": text.row["id"],
                    "time": _iso(text.seconds),
                    "topic": verdict.topic,
                    "sentiment": verdict.sentiment,
                    "probability_negative": round(verdict.probability, 4),
                }
            )
        self.counts["items"] += len(items)
        self.counts["rejected"] += len(rejected)
        self.counts["alerts"] += len(alerts)
        self._commit({ITEMS: items, ALERTS: alerts, REJECTED: rejected}, lines[-1].end)
        return alerts

    def _count(self, seconds: float, verdict: Verdict) -> Iterator[dict[str, Any]]:
        topic = self.topics.setdefault(verdict.topic, self._topic())
        start = math.floor(seconds / self.window_seconds) * self.window_seconds
        if topic.start is None:
            topic.start = start
        if start > topic.start:
            window = topic.surges.close(topic.start, topic.texts, topic.negative)
            topic.shown = [*topic.shown, window][-SHOWN:]
            if window.surge:
                yield self._alert(verdict.topic, topic, window)
            topic.start, topic.texts, topic.negative = start, 0, 0
        elif start < topic.start:
            topic.late += 1  # its window is closed: it counts where it arrives
        topic.texts += 1
        topic.negative += verdict.sentiment == self.negative

    def _alert(self, name: str, topic: Topic, window: Window) -> dict[str, Any]:
        past = sum(w.texts for w in topic.surges.quiet)
        before = sum(w.negative for w in topic.surges.quiet)
        return {
            "topic": name,
            "from": _iso(window.start),
            "to": _iso(window.start + self.window_seconds),
            "texts": window.texts,
            "negative": window.negative,
            "share": round(window.negative / window.texts, 4),
            "share_before": round(before / past, 4),
            "p_value": window.p_value,
            "new_level": not topic.surges.in_a_row,
        }

    def _commit(self, outputs: Mapping[str, Sequence[Mapping[str, Any]]], offset: int) -> None:
        for name, rows in outputs.items():
            if not rows:
                continue
            with (self.folder / name).open("ab") as file:
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
                file.flush()
                os.fsync(file.fileno())
                self.lengths[name] = file.tell()
        self.offset = offset
        files.write_json(self.folder / STATE, self.state())

    def state(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "settings": self.settings(),
            "offset": self.offset,
            "counts": self.counts,
            "lengths": self.lengths,
            "topics": {
                name: {
                    "surges": topic.surges.state(),
                    "start": topic.start,
                    "texts": topic.texts,
                    "negative": topic.negative,
                    "late": topic.late,
                    "shown": [vars(window) for window in topic.shown],
                }
                for name, topic in self.topics.items()
            },
        }


def read_texts(lines: Sequence[Line], ask: Ask) -> tuple[list[Text], list[dict[str, Any]]]:
    """Texts with their times, and why the other lines are none."""
    texts, rejected = [], []
    for line in lines:
        if not line.content.strip():
            continue
        try:
            texts.append(_text(line.content, ask))
        except (ValueError, KeyError, TypeError) as error:
            shown = line.content[:200].decode("utf-8", errors="replace")
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            rejected.append({"reason": reason, "line": shown})
    return texts, rejected


def _text(content: bytes, ask: Ask) -> Text:
    try:
        row = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"a line must be a JSON object, not {type(row).__name__}")
    missing = [name for name in ("id", "time", "text") if row.get(name) in (None, "")]
    if missing:
        raise ValueError(f"no {', '.join(missing)}")
    return Text(row=row, seconds=_seconds(row["time"]), asked=ask(row))


def _seconds(value: Any) -> float:
    """Seconds since 1970 of an ISO 8601 time (in UTC, where it names no zone) or of a number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"time {value!r} is neither seconds since 1970 nor of the form 2026-01-31T09:00:00Z"
        ) from error
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _named(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def watch(
    state: Watch,
    batches: Iterator[list[Line]],
    ask: Ask,
    classify: Classify,
    after: Callable[[list[dict[str, Any]]], None],
) -> None:
    """Deal with every batch of a stream.

    Args:
        state: resumed.
        batches: from `state.offset` on.
        after: called with the new alerts after each batch.
    """
    for lines in batches:
        after(state.take(lines, ask, classify))
