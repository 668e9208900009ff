"""What all benchmarks share: the machine in words, processes that take turns, medians of ratios, a picture."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.console import quiet_libraries

quiet_libraries()  # in every process of a benchmark, before it imports what would warn

OUT = Path("benchmarks", "out")
FINSERVE = Path(__file__).parent.parent / "data" / "finserve" / "en"
# In front of what a process tells: trainers print as well.
MARK = "measured: "
WARM = "warm"
Result = dict[str, Any]


def machine() -> str:
    """Processor, cores and versions, in two lines."""
    from workbench.run.resources import environment

    found = environment()
    units = "multiplies bfloat16 in hardware" if found["bfloat16_in_hardware"] else "no bfloat16 units"
    libraries = ", ".join(f"{name} {version}" for name, version in found["libraries"].items())
    return f"{found['processor']}, {found['cores']} cores, {units}, on {found['device']}\n{libraries}"


class Side:
    """A process that measures the same thing whenever it is its turn, and sleeps in between.

    Args:
        script: which calls `take_turns` when it is started with `arguments`.
        settings: further variables of its environment.
    """

    def __init__(self, script: Path, arguments: Sequence[str], settings: Mapping[str, str] | None = None) -> None:
        self._name = " ".join((script.name, *arguments))
        self._process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", **(settings or {})},
        )

    def turn(self, warm: bool = False) -> Result:
        """Let it measure once; `warm`: only to warm up."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{WARM if warm else ''}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(MARK):
                return dict(json.loads(line.removeprefix(MARK)))
        raise SystemExit(f"{self._name} ended with {self._process.wait()}")

    def end(self) -> None:
        """Let it go."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def take_turns(measure: Callable[[bool], Result]) -> None:
    """In the process of a `Side`: measure whenever asked to, until nobody asks any more.

    Args:
        measure: is told whether it is only to warm up.
    """
    for line in sys.stdin:
        print(f"{MARK}{json.dumps(measure(line.strip() == WARM))}", flush=True)


def alternate(sides: Mapping[str, Side], rounds: int) -> dict[str, list[Result]]:
    """Results of each side, one after the other in every round, so that a slow hour slows all.

    The first round warms up and isn't counted.
    """
    found: dict[str, list[Result]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            result = side.turn(warm=number == 0)
            if number:
                found[name].append(result)
            what = f"round {number} of {rounds}" if number else "warming up"
            print(f"{what}, {name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    for side in sides.values():
        side.end()
    return found


def own_memory(what: str) -> int:
    """Memory of this process in bytes, by its name in Linux's /proc/self/status, such as "VmHWM": the most so far."""
    return int(Path("/proc/self/status").read_text(encoding="utf-8").partition(f"{what}:")[2].split()[0]) * 1024


def median(results: Sequence[Mapping[str, float]], what: str) -> float:
    """Of all rounds."""
    return statistics.median(result[what] for result in results)


def ratios(above: Sequence[Mapping[str, float]], below: Sequence[Mapping[str, float]], what: str) -> list[float]:
    """`above / below`, round by round."""
    return [a[what] / b[what] for a, b in zip(above, below, strict=True)]


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def draw_bars(name: str, title: str, unit: str, bars: Mapping[str, Sequence[float]]) -> Path:
    """A picture of the medians, the range of all rounds on each, in `OUT`."""
    import matplotlib.pyplot as plt

    middles = [statistics.median(values) for values in bars.values()]
    below = [middle - min(values) for middle, values in zip(middles, bars.values(), strict=True)]
    above = [max(values) - middle for middle, values in zip(middles, bars.values(), strict=True)]
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.5 * len(bars)), layout="constrained")
    drawn = axes.barh(list(bars), middles, xerr=[below, above], color="#4477aa", ecolor="#222222", capsize=3)
    axes.bar_label(drawn, fmt="%.4g", padding=8)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set(title=title, xlabel=unit)
    axes.spines[["top", "right"]].set_visible(False)
    return keep(figure, name)


def keep(figure: Any, name: str) -> Path:
    """Save a picture in `OUT`, and say where it is."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.png"
    figure.savefig(path, dpi=120)
    print(f"picture: {path}")
    return path
