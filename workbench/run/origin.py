"""From what a run comes: the command that does the same, and the state of the recipe's repository."""

import shlex
import subprocess
from pathlib import Path

from workbench.processes import count, fsdp
from workbench.run.options import Options
from workbench.sources import public_name

# Of an answer of git, which may lie on a slow disk.
GIT_SECONDS = 20.0


def command_of(options: Options) -> str:
    """The command that begins the same run; the recipe's path from the working directory, or its name alone."""
    recipe, here = Path(str(options.recipe)), Path.cwd()
    told = recipe.relative_to(here) if recipe.is_relative_to(here) else Path(recipe.name)
    parts = [*_beginning(), "-m", "workbench.run", str(told)]
    given = {
        "--methods": ",".join(options.methods) if options.methods else None,
        "--model": public_name(options.model) if options.model else None,
        "--bits": options.bits,
        "--device": options.device,
        "--precision": options.precision if options.precision != "float32" else None,
        "--seed": options.seed or None,
        "--seeds": options.seeds if options.seeds > 1 else None,
        "--limit": options.limit,
        "--tune": options.tune,
        "--price": options.price,
        "--track": ",".join(options.track) or None,
        "--language": options.language if options.language != "en" else None,
        "--engine": options.engine if options.engine != "local" else None,
        "--jobs": options.jobs,
        "--cpus": options.cpus,
        "--address": options.address,
        "--minutes": f"{options.minutes:g}" if options.minutes else None,
    }
    parts += ["--curve"] * options.curve
    for name, value in given.items():
        if value is not None:
            parts += [name, str(value)]
    return shlex.join(parts)


def _beginning() -> list[str]:
    """What begins a Python module in as many processes as there are here."""
    if count() == 1:
        return ["python"]
    split = fsdp()
    if split is None:
        return ["torchrun", "--nproc-per-node", str(count())]
    given = {
        "--fsdp_version": "2",
        "--fsdp_reshard_after_forward": str(split.reshard).lower(),
        "--fsdp_offload_params": str(split.offload).lower(),
        "--num_processes": str(count()),
    }
    return ["accelerate", "launch", "--use_fsdp", *(part for pair in given.items() for part in pair)]


def git_state(folder: Path) -> dict[str, str | bool] | None:
    """The commit of the repository that a folder lies in, and whether anything was changed since; None without one."""
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or status is None else {"commit": commit, "changed": bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers; None where it is not installed, or the folder is in no repository."""
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]  # no program of the repository's
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
