"""A training step beside other busy processes: how OpenMP's threads wait, and how many there are.

    python benchmarks/neighbours.py                    none, one and two busy neighbours
    python benchmarks/neighbours.py --neighbours 0 4

Threads of a matrix product wait for each other at its end. As they come they wait actively, and a thread whose core is
taken by somebody else keeps all others waiting. `GOMP_SPINCOUNT=1000`, which the commands of this project set, lets
them sleep instead. A neighbour here is a process that counts, on one thread.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import Result, Side, alternate, draw_bars, machine, median, ratios, spread, take_turns

ACTIVE, SLEEPING, PASSIVE, FEWER = "as it comes", "GOMP_SPINCOUNT=1000", "OMP_WAIT_POLICY=PASSIVE", "one thread fewer"
STEPS = 3


def settings(name: str) -> dict[str, str]:
    """Environment variables of a way to wait."""
    cores = os.cpu_count() or 1
    return {
        ACTIVE: {},
        SLEEPING: {"GOMP_SPINCOUNT": "1000"},
        PASSIVE: {"OMP_WAIT_POLICY": "PASSIVE"},
        FEWER: {"GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": str(max(1, cores - 1))},
    }[name]


def measure_steps() -> Result:
    """Seconds of a LoRA step on SmolLM2-135M."""
    from training import checkpoint, train_ours

    from workbench.models import default_bits

    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint("smollm2", Path(folder))
        found = train_ours(path, default_bits(), STEPS, ("q_proj", "v_proj"))
    return {"seconds": found["tokens"] / found["speed"] / STEPS}


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """While the block runs, so many processes are busy."""
    busy: list[subprocess.Popen[Any]] = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    """Let the ways to wait take turns beside so many neighbours."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="(default: 0 1 2)")
    p.add_argument("--rounds", type=int, default=2, metavar="N", help="turns that count (default: 2)")
    p.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.side:
        take_turns(lambda _: measure_steps())
        return
    print(f"# A training step beside busy neighbours\n{machine()}", flush=True)
    bars: dict[str, list[float]] = {}
    for count in options.neighbours:
        with neighbours(count):
            names = (ACTIVE, SLEEPING, PASSIVE, FEWER)
            sides = {name: Side(Path(__file__), ["--side"], settings(name)) for name in names}
            found = alternate(sides, options.rounds)
        print(f"\n{count} neighbours")
        for name, turns in found.items():
            slower = spread(ratios(turns, found[SLEEPING], "seconds"))
            print(f"  {name}: {median(turns, 'seconds'):.2f} s a step, {slower} times that of {SLEEPING}", flush=True)
            bars[f"{count}: {name}"] = [turn["seconds"] for turn in turns]
    draw_bars("neighbours", "A training step beside N busy neighbours", "seconds", bars)


if __name__ == "__main__":
    main()
