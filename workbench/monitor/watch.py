"""The watch itself: lines in; classified items, rejected lines and alerts out; nothing lost or repeated by a restart.

Each batch is committed in one step: outputs are appended and synced, then `state.json`, which names how far the stream
was read and how long the outputs are, is replaced. A restart cuts the outputs to that length and reads on from there.

Outputs have the same keys whatever a recipe's `monitoring` counts; they have the names they got for opinions of firms:

- `items.jsonl`, a text a line: `id`, `time`, `topic` (the model's choice in `topic_task`, "all" where there is none),
  `sentiment` (its choice in `task`) and `probability_negative` (the probability of the `label` that is counted).
- `alerts.jsonl`, a surge a line: `topic`, `from`, `to`, `texts`, `negative` (texts with that label), `share`,
  `share_before`, `p_value` and `new_level`.
- `rejected.jsonl`: `reason` and `line`.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench import files
from workbench.errors import UserError
from workbench.monitor.stream import Line, Place
from workbench.monitor.surge import Judgement, Surges, Window
from workbench.monitor.texts import Ask, Text, iso, line_of, read_texts
from workbench.recipe import Monitoring

STATE = "state.json"
ITEMS, ALERTS, REJECTED = "items.jsonl", "alerts.jsonl", "rejected.jsonl"
# Windows of each topic that are kept for the picture.
SHOWN = 120
# Texts by whose ids it is known whether another comes again.
RECENT = 10_000
# Of an output, that are read together from its end.
BLOCK_BYTES = 2**16
# Names in a state that version 0.1 left.
FORMER_SETTINGS = {"negative": "label"}
COUNTS = ("items", "rejected", "repeated", "late", "alerts")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the model makes of a text.

    Attributes:
        topic: what it is about.
        label: the likeliest in the task that is watched.
        probability: of the label that is counted.
    """

    topic: str
    label: str
    probability: float


Classify = Callable[[Sequence[Text]], Sequence[Verdict]]


@dataclass
class Topic:
    """What is known of a topic: what came in the open window, and the windows before.

    Attributes:
        surges: the test, and the windows it holds against each other.
        texts, negative: texts in the open window, and those of them with the label that is counted.
        shown: windows that are over, for the picture.
    """

    surges: Surges
    texts: int = 0
    negative: int = 0
    shown: list[Window] = field(default_factory=list)


@dataclass
class Watch:
    """The state of a watch in a folder.

    Attributes:
        folder: where everything goes.
        stream, method: what is read, and by what.
        window_seconds: length of a window.
        false_alarms: chance that a quiet topic raises an alert in a window.
        history: quiet windows that a new one is held against, at most.
        monitoring: which label of which task is counted.
        last: the last line that was dealt with, by which the stream is known; None before the first.
        start: of the open window, which is that of the latest text; None before the first.
        counts: texts, lines that are none, texts that had come before, texts of windows that were over, alerts.
        recent: ids of the last texts.
    """

    folder: Path
    stream: str
    method: str
    window_seconds: float
    false_alarms: float
    history: int
    monitoring: Monitoring
    last: Place | None = None
    start: float | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    topics: dict[str, Topic] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=lambda: dict.fromkeys((ITEMS, ALERTS, REJECTED), 0))
    recent: dict[str, None] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """What must not change when a watch goes on."""
        return {
            "stream": self.stream,
            "method": self.method,
            "window_seconds": self.window_seconds,
            "false_alarms": self.false_alarms,
            "history": self.history,
            "task": self.monitoring.task,
            "label": self.monitoring.label,
        }

    def resume(self) -> None:
        """Go on from what `folder` holds; begin anew if it holds nothing.

        Raises:
            UserError: it was begun with other settings, or its files are not those that were left.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / STATE
        if file.is_file():
            with told(file):
                state = json.loads(file.read_text(encoding="utf-8"))
                self._restore(state)
            begun = {FORMER_SETTINGS.get(name, name): value for name, value in state["settings"].items()}
            if changed := {k: v for k, v in begun.items() if v != self.settings().get(k)}:
                named = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in changed.items())
                raise UserError(f"{self.folder} was begun with {named}: give the same, or another --out")
        for name, length in self.lengths.items():
            with (self.folder / name).open("ab") as output:
                if output.tell() < length:
                    raise UserError(
                        f"{self.folder / name} has been shortened since: put it back, or begin anew with another --out"
                    )
                output.truncate(length)
        with told(self.folder / ITEMS):
            for line in last_lines(self.folder / ITEMS, RECENT):
                self._remember(str(json.loads(line)["id"]))

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state` gave."""
        self.counts, self.start = dict(state["counts"]), state["start"]
        self.lengths = {name: int(state["lengths"][name]) for name in self.lengths}
        if state["offset"]:
            start, digest = state["mark"]
            self.last = Place(start=int(start), end=int(state["offset"]), digest=str(digest))
        self.topics = {name: self._topic(values) for name, values in state["topics"].items()}
        dict(state["settings"])

    def _topic(self, state: dict[str, Any] | None = None) -> Topic:
        if state is None:
            return Topic(Surges(self.false_alarms, self.history))
        return Topic(
            surges=Surges.restored(state["surges"], self.false_alarms, self.history),
            texts=state["texts"],
            negative=state["negative"],
            shown=[Window(**window) for window in state["shown"]],
        )

    def take(self, lines: Sequence[Line], ask: Ask, classify: Classify) -> list[dict[str, Any]]:
        """Deal with lines of the stream, and commit what came of them.

        Args:
            ask: what is asked of a line's object; whatever it raises is the reason why it can't be used.

        Returns:
            The alerts that they raised.
        """
        texts, rejected = read_texts(lines, ask)
        new = []
        for text in texts:
            if str(text.row["id"]) not in self.recent:
                self._remember(str(text.row["id"]))
                new.append(text)
        verdicts = classify(new) if new else []
        items: list[dict[str, Any]] = []
        alerts: list[dict[str, Any]] = []
        for text, verdict in zip(new, verdicts, strict=True):
            alerts += self._count(text.seconds, verdict)
            items.append(
                {
                    "id": text.row["id"],
                    "time": iso(text.seconds),
                    "topic": verdict.topic,
                    "sentiment": verdict.label,
                    "probability_negative": round(verdict.probability, 4),
                }
            )
        for name, count in (
            ("items", len(items)),
            ("rejected", len(rejected)),
            ("repeated", len(texts) - len(new)),
            ("alerts", len(alerts)),
        ):
            self.counts[name] += count
        self.last = lines[-1].place
        self._commit({ITEMS: items, ALERTS: alerts, REJECTED: rejected})
        return alerts

    def _remember(self, key: str) -> None:
        self.recent[key] = None
        if len(self.recent) > RECENT:
            del self.recent[next(iter(self.recent))]

    def _count(self, seconds: float, verdict: Verdict) -> Iterator[dict[str, Any]]:
        start = math.floor(seconds / self.window_seconds) * self.window_seconds
        if self.start is None:
            self.start = start
        if start > self.start:
            for name, topic in self.topics.items():
                yield from self._close(name, topic)
            self.start = start
        self.counts["late"] += start < self.start  # its window is over: it counts where it arrives
        topic = self.topics.setdefault(verdict.topic, self._topic())
        topic.texts += 1
        topic.negative += verdict.label == self.monitoring.label

    def _close(self, name: str, topic: Topic) -> Iterator[dict[str, Any]]:
        """Judge the open window of a topic, if it has any text."""
        if not topic.texts:
            return
        assert self.start is not None
        judged = topic.surges.close(self.start, topic.texts, topic.negative)
        topic.texts = topic.negative = 0
        topic.shown = [*topic.shown, judged.window][-SHOWN:]
        if judged.window.surge:
            yield self._alert(name, judged)

    def _alert(self, name: str, judged: Judgement) -> dict[str, Any]:
        texts, negative = (sum(getattr(w, kind) for w in judged.span) for kind in ("texts", "negative"))
        past, before = (sum(getattr(w, kind) for w in judged.before) for kind in ("texts", "negative"))
        return {
            "topic": name,
            "from": iso(judged.span[0].start),
            "to": iso(judged.window.start + self.window_seconds),
            "texts": texts,
            "negative": negative,
            "share": round(negative / texts, 4),
            "share_before": round(before / past, 4),
            "p_value": judged.p_value,
            "new_level": judged.new_level,
        }

    def _commit(self, outputs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        for name, rows in outputs.items():
            if not rows:
                continue
            with (self.folder / name).open("ab") as file:
                file.write("".join(line_of(row) for row in rows).encode())
                file.flush()
                os.fsync(file.fileno())
                self.lengths[name] = file.tell()
        files.write_json(self.folder / STATE, self.state())

    def state(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "settings": self.settings(),
            "offset": self.last.end if self.last else 0,
            "mark": [self.last.start, self.last.digest] if self.last else [0, ""],
            "start": self.start,
            "counts": self.counts,
            "lengths": self.lengths,
            "topics": {
                name: {
                    "surges": topic.surges.state(),
                    "texts": topic.texts,
                    "negative": topic.negative,
                    "shown": [vars(window) for window in topic.shown],
                }
                for name, topic in self.topics.items()
            },
        }


@contextmanager
def told(file: Path) -> Iterator[None]:
    """Whatever is wrong with a file of the watch is the user's to know.

    Raises:
        UserError: the block failed at what it holds.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file} is not what the watch left: {type(error).__name__}: {error}; put it back, or begin anew with "
            "another --out"
        ) from error


def last_lines(path: Path, count: int) -> list[bytes]:
    """The last `count` whole lines of a file, in their order, without reading what stands before them."""
    with path.open("rb") as file:
        start = file.seek(0, os.SEEK_END)
        content = b""
        while start and content.count(b"\n") <= count:
            block = min(BLOCK_BYTES, start)
            start = file.seek(start - block)
            content = file.read(block) + content
    lines = content.splitlines(keepends=True)
    return lines[-count:]
