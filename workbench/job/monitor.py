"""A tuned model watches a stream."""

import json
import math
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from workbench.data import Example
from workbench.errors import UserError
from workbench.job.job import read_options
from workbench.job.opened import Opened, open_method
from workbench.monitoring import Watch, watch
from workbench.monitoring.page import ALERTS_SHOWN, RENEW_SECONDS, write_page
from workbench.monitoring.stream import batches, spool
from workbench.monitoring.watch import ALERTS, Text, Verdict

SENTIMENT, TOPIC, NEGATIVE = "sentiment", "topic", "negative"
SPOOL = "stream.jsonl"


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
    """Classify the texts of a stream, and tell when the negative share of a topic is beyond what its history explains.

    Args:
        run: folder of a run whose recipe `asks` for the sentiment of a text, and maybe for its topic.
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
    options = read_options(run)
    opened = open_method(run, options, method)
    if opened.recipe.asks is None or SENTIMENT not in opened.choosing:
        raise UserError(f"{options.recipe} does not say how a new text is asked for its {SENTIMENT}: see `asks`")
    out.mkdir(parents=True, exist_ok=True)
    state = Watch(
        folder=out, window_seconds=window_seconds, false_alarms=false_alarms, history=history, negative=NEGATIVE
    )
    try:
        lock = FileLock(out / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(f"another monitor writes to {out}: stop it, or choose another --out") from None
    with lock:
        state.resume()
        end = None
        if stream is None:
            stream = out / SPOOL
            end = spool(sys.stdin.buffer, stream)
        elif follow:
            from threading import Event

            end = Event()
        source = str(stream)
        last: deque[Mapping[str, Any]] = deque(maxlen=ALERTS_SHOWN)
        with (out / ALERTS).open(encoding="utf-8") as file:
            last.extend(json.loads(line) for line in file)
        drawn = 0.0
        print(
            f"{opened.record['method']} reads {source} from byte {state.offset:,}; picture: {out / 'trend.html'}",
            file=sys.stderr,
        )

        def after(new: Sequence[Mapping[str, Any]]) -> None:
            nonlocal drawn
            for alert in new:
                print(json.dumps(alert, ensure_ascii=False), file=alerts, flush=True)
            last.extend(new)
            if new or time.monotonic() - drawn > RENEW_SECONDS:
                write_page(state, list(last), source)
                drawn = time.monotonic()
                print(
                    f"\r{state.counts['items']:,} texts, {state.counts['rejected']:,} lines left out, "
                    f"{state.counts['alerts']:,} alerts",
                    end="", file=sys.stderr, flush=True,
                )  # fmt: skip

        watch(
            state,
            batches(stream, state.offset, batch, end),
            lambda row: _asked(opened, row),
            lambda texts: _verdicts(opened, texts),
            after,
        )
        write_page(state, list(last), source)
        print(
            f"\r{state.counts['items']:,} texts, {state.counts['rejected']:,} lines left out, "
            f"{state.counts['alerts']:,} alerts",
            file=sys.stderr,
        )


def _asked(opened: Opened, row: Mapping[str, Any]) -> list[Example]:
    """What is asked of a row of the stream.

    Raises:
        ValueError: it is longer than what the model was tuned on.
    """
    assert opened.recipe.asks is not None
    asked = list(opened.recipe.asks(row))
    for example in asked:
        length = len(opened.renderer.tokens(opened.renderer.prompt(example.prompt)))
        if length > opened.recipe.max_tokens:
            raise ValueError(f"the text has {length} tokens, more than max_tokens {opened.recipe.max_tokens}")
    return asked


def _verdicts(opened: Opened, texts: Sequence[Text]) -> list[Verdict]:
    answers = iter(opened.choose([example for text in texts for example in text.asked]))
    found = []
    for text in texts:
        by_task = {example.task: next(answers) for example in text.asked}
        sentiment, topic = by_task[SENTIMENT], by_task.get(TOPIC)
        found.append(
            Verdict(
                topic=topic.prediction if topic else str(text.row.get(TOPIC, "all")),
                sentiment=sentiment.prediction,
                probability=math.exp(sentiment.choices[NEGATIVE]),
            )
        )
    return found
