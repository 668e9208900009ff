"""Render chat templates for another process, within bounds of time and memory.

    python -E -P sandbox_process.py SECONDS BYTES

A chat template is a program that came with a checkpoint. Each line of standard input is a JSON object: `template`,
`tokens` (the special tokens by name) and `asked`, a list of objects with `messages`, `tools` and
`add_generation_prompt`. One line of JSON comes back, a list with one object for each: `text`, or `refused` (by the
template itself) or `failed`, with the reason. A rendering that takes more than SECONDS of processor time ends this
process by SIGPROF; one that needs BYTES more than the process had at its start fails.
"""

import json
import sys
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

try:
    import resource
    import signal
except ImportError:  # Windows has neither; there the other process watches the clock
    resource = signal = None  # type: ignore[assignment]

# What a template may write, as a multiple of what it was given, and beside that.
GROWTH, BESIDE = 100, 2**20


def main(seconds: float, room: int) -> None:
    """Answer line by line."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    if signal is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks, which ends this one
    _bound_memory(room)
    for line in sys.stdin:
        given = json.loads(line)
        found = []
        for asked in given["asked"]:
            if signal is not None:
                signal.setitimer(signal.ITIMER_PROF, seconds)
            found.append(rendered(given["template"], given["tokens"], asked))
        if signal is not None:
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(found), file=answers, flush=True)


def rendered(template: str, tokens: dict[str, Any], asked: dict[str, Any]) -> dict[str, str]:
    """The text of one conversation, or why there is none."""
    try:
        found: Any = render_jinja_template(
            conversations=[asked["messages"]],
            tools=asked["tools"],
            chat_template=template,
            add_generation_prompt=asked["add_generation_prompt"],
            **tokens,
        )
        ((text,), _) = found
    except jinja2.TemplateError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"failed": "it needs too much memory"}
    except Exception as error:  # noqa: BLE001  whatever it is, the other side has to hear of it
        return {"failed": f"{type(error).__name__}: {error}"}
    if len(text) > GROWTH * len(json.dumps(asked)) + BESIDE:
        return {"failed": f"it writes {len(text):,} characters"}
    return {"text": text}


def _bound_memory(room: int) -> None:
    """Let the process have that many bytes more than it has; only Linux heeds it."""
    if resource is None or sys.platform != "linux":
        return
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  pathlib is not loaded
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + room
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
