"""A tuned model watches a stream."""

import json
import math
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import IO, Any

from filelock import FileLock, Timeout

from workbench.console import CONTROL
from workbench.data import Example
from workbench.errors import UserError
from workbench.monitor.counted import what_is_counted
from workbench.monitor.page import ALERTS_SHOWN, PAGE, RENEW_SECONDS, write_page
from workbench.monitor.stream import Spool, batches
from workbench.monitor.texts import Text
from workbench.monitor.watch import ALERTS, Verdict, Watch, told
from workbench.recipe import Monitoring
from workbench.run.folder import RunFolder
from workbench.run.tuned import TunedModel, load_tuned

SPOOL = "stream.jsonl"
STANDARD_INPUT = "standard input"
# The topic of texts that are not asked for one.
ALL_TEXTS = "all"


def monitor(
    run: Path,
    stream: Path | None,
    out: Path,
    *,
    method: str | None,
    follow: bool,
    window_seconds: float,
    false_alarms: float,
    history: int,
    batch: int,
    alerts: IO[str],
) -> None:
    """Classify the texts of a stream, and tell when the share of a label is beyond what a topic's history explains.

    Args:
        run: folder of a run whose recipe has `monitoring`, which names the label.
        stream: JSON lines; None reads standard input.
        out: where everything goes.
        method: of the run; None takes the best.
        follow: wait for more at the end of the stream.
        window_seconds: length of a window.
        false_alarms: chance that a quiet topic raises an alert in a window.
        history: quiet windows that a new one is held against, at most.
        batch: texts classified together, at most.
        alerts: where alerts are written as they come.

    Raises:
        UserError: the run can't be used so, or `out` belongs to another watch.
    """
    folder = RunFolder.open(run)
    with folder.locked(reading=True):
        tuned = load_tuned(folder, method)
    monitoring = what_is_counted(tuned.recipe, tuned.calibrations, folder.options.recipe or tuned.recipe.name)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(f"another monitor writes to {out}: stop it, or choose another --out") from None
    except OSError as error:
        raise UserError(f"can't write to {out}: {error.strerror}") from error
    try:
        _watch(tuned, monitoring, stream, out, follow, batch, alerts, window_seconds, false_alarms, history)
    finally:
        lock.release()


def _watch(
    tuned: TunedModel,
    monitoring: Monitoring,
    stream: Path | None,
    out: Path,
    follow: bool,
    batch: int,
    alerts: IO[str],
    window_seconds: float,
    false_alarms: float,
    history: int,
) -> None:
    state = Watch(
        folder=out,
        stream=STANDARD_INPUT if stream is None else str(stream.resolve()),
        method=tuned.name,
        window_seconds=window_seconds,
        false_alarms=false_alarms,
        history=history,
        monitoring=monitoring,
    )
    state.resume()
    path = out / SPOOL if stream is None else stream
    spooled = None
    if stream is None:
        _require_spool(path, state)
        spooled = Spool(sys.stdin.buffer, path, state.last.end if state.last else 0)
    end = spooled.done if spooled else Event() if follow else None
    with told(out / ALERTS), (out / ALERTS).open(encoding="utf-8") as file:
        last: deque[Mapping[str, Any]] = deque(map(json.loads, file), maxlen=ALERTS_SHOWN)
    print(
        f"{state.method} reads {state.stream} from byte {state.last.end if state.last else 0:,}; picture: {out / PAGE}",
        file=sys.stderr,
    )
    drawn = 0.0
    for lines in batches(path, state.last, batch, end, lambda remark: print(f"\r{remark}", file=sys.stderr)):
        new = state.take(
            lines, lambda row: _asked(tuned, monitoring, row), lambda texts: _verdicts(tuned, monitoring, texts)
        )
        for alert in new:
            print(_as_json(alert), file=alerts, flush=True)
        last.extend(new)
        if new or time.monotonic() - drawn > RENEW_SECONDS:
            write_page(state, list(last))
            drawn = time.monotonic()
            print(f"\r{_counted(state)}", end="", file=sys.stderr, flush=True)
    write_page(state, list(last))
    print(f"\r{_counted(state)}", file=sys.stderr)
    if spooled and spooled.error:
        raise spooled.error


def _require_spool(path: Path, state: Watch) -> None:
    """See that a spool is the one from which was read before.

    Raises:
        UserError: it is not.
    """
    if state.last is None:
        return
    try:
        with path.open("rb") as file:
            is_same = state.last.is_read_from(file)
    except FileNotFoundError:
        is_same = False
    if not is_same:
        raise UserError(f"{path} is not what was read before: put it back, or begin anew with another --out")


def _as_json(alert: Mapping[str, Any]) -> str:
    """An alert for a terminal or another program: a topic's name may hold control characters that JSON lets stand."""
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(alert, ensure_ascii=False))


def _counted(state: Watch) -> str:
    counts = state.counts
    more = "".join(f", {counts[name]:,} {name}" for name in ("repeated", "late") if counts[name])
    return f"{counts['items']:,} texts, {counts['rejected']:,} lines left out{more}, {counts['alerts']:,} alerts"


def _asked(tuned: TunedModel, monitoring: Monitoring, row: Mapping[str, Any]) -> list[Example]:
    """What is asked of a row of the stream.

    Raises:
        ValueError: it is longer than what the model was tuned on, or is not asked for the label that is counted.
    """
    asked = tuned.inference_examples(row)
    renderer = tuned.language_model.renderer
    if not any(example.task == monitoring.task and monitoring.label in example.choices for example in asked):
        raise ValueError(f"the recipe does not ask whether its {monitoring.task} is {monitoring.label}")
    for example in asked:
        length = len(renderer.prompt_ids(example.prompt))
        if length > tuned.recipe.max_tokens:
            raise ValueError(f"the text has {length} tokens, more than max_tokens {tuned.recipe.max_tokens}")
    return asked


def _verdicts(tuned: TunedModel, monitoring: Monitoring, texts: Sequence[Text]) -> list[Verdict]:
    asked = [example for text in texts for example in text.asked]
    answers = iter(tuned.choose(asked, prune=True, kept=(monitoring.label,)))
    found = []
    for text in texts:
        by_task = {example.task: next(answers) for example in text.asked}
        labelled = by_task[monitoring.task]
        topic = by_task.get(monitoring.topic_task) if monitoring.topic_task is not None else None
        taken = monitoring.label in (labelled.chosen or ())  # among several that may be right at once
        found.append(
            Verdict(
                topic=topic.prediction if topic else ALL_TEXTS,
                label=monitoring.label if taken else labelled.prediction,
                probability=math.exp(labelled.choices[monitoring.label]),
            )
        )
    return found
