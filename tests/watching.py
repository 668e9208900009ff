"""A watch for test_monitoring.py, and for a process of it that is killed; imports nothing heavy."""

from pathlib import Path
from typing import Any

from workbench import Monitoring
from workbench.monitor.watch import Verdict, Watch

HOUR = 3600.0


def asked(row: Any) -> list[Any]:
    if "bad" in row:
        raise ValueError("no firm")
    return []


def told(texts: Any) -> list[Verdict]:
    """A classifier that finds its verdict in the row."""
    return [Verdict(topic=text.row.get("topic", "all"), label=text.row["says"], probability=0.5) for text in texts]


def watch_of(folder: Path, **other: Any) -> Watch:
    settings = {
        "stream": "posts", "method": "lora", "window_seconds": HOUR, "false_alarms": 0.01, "history": 24,
        "monitoring": Monitoring(task="sentiment", label="negative"),
    }  # fmt: skip
    return Watch(folder=folder, **{**settings, **other})


def watch_in(folder: Path) -> Watch:
    watch = watch_of(folder)
    watch.resume()
    return watch
