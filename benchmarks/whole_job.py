"""Where the time of a job goes: training, evaluation, export, everything else.

    python benchmarks/whole_job.py                 finserve on 4 examples, with one method
    python benchmarks/whole_job.py --run DIR       a run that was carried to its end, such as all of finserve

Everything else is start-up, fetching and preparing data and checkpoint, saving, comparing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import draw_bars, machine

RECIPE = Path(__file__).parent.parent / "recipes" / "finserve.py"
LIMITED = ("--limit", "4", "--methods", "lora")


def main() -> None:
    """Read the times of a run; make one first, if there is none."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--run", type=Path, metavar="DIR", help="its output folder")
    options = p.parse_args()
    print(f"# The whole job: {options.run or ' '.join(('finserve', *LIMITED))}\n{machine()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = options.run or Path(folder, "run")
        if options.run is None:
            command = [sys.executable, "-m", "workbench.run", str(RECIPE), *LIMITED, "--out", str(out)]
            quiet = {**os.environ, "TQDM_DISABLE": "1"}
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=quiet)
        seconds = json.loads((out / "results.json").read_text(encoding="utf-8"))["seconds"]
    total = seconds.pop("total")
    for name, value in seconds.items():
        print(f"{name}: {value:.1f} s, {100 * value / total:.1f} %")
    rest = seconds["export"] + seconds["other"]
    print(f"in all: {total:.1f} s; export and everything else: {100 * rest / total:.1f} %")
    draw_bars("whole-job", "Where the time goes", "seconds", {name: [value] for name, value in seconds.items()})


if __name__ == "__main__":
    main()
