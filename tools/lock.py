"""Write the requirements files anew: every package that is installed, its version and the checksums of its archives.

    python tools/lock.py            # newest releases that pyproject.toml allows
    python tools/lock.py --keep     # the versions that stand there, with what else pyproject.toml asks for now

It asks uv (`pip install uv`) to resolve for every platform at once. PyTorch stands by itself, since people take it from
other indexes, and so do the CUDA libraries that only its build for Linux needs, and what there is no wheel of.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
# What comes with a CUDA build of PyTorch.
CUDA = re.compile(r"(nvidia|cuda)-|triton$")
# Of which there is a source archive alone. Its setup.py is run, and the checksum says which that is.
SOURCE_ONLY = {"rouge-score"}
# Builds of PyTorch that are not on PyPI, and take a tenth of the room.
CPU_BUILDS = {
    "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl": (
        "sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
    )
}
FILES = {
    "cpu": ("requirements-torch-cpu.txt", "PyTorch for a CPU, where pip is told of a place that has such a build."),
    "torch": ("requirements-torch.txt", "PyTorch from PyPI, where there is none."),
    "cuda": ("requirements-cuda.txt", "What PyTorch's build for Linux on PyPI needs beside requirements.txt."),
    "source": ("requirements-source.txt", "Of what there is no wheel: built with what requirements.txt installs."),
    "run": ("requirements.txt", "Everything else that `make run` installs."),
    "dev": ("requirements-dev.txt", "What `make test` and `make check` need beside the others."),
}


def main() -> None:
    """Resolve, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="keep the versions that stand in the files")
    keep = parser.parse_args().keep
    run, everything = resolved([], keep), resolved(["--extra", "dev"], keep)
    found: dict[str, list[str]] = {kind: [] for kind in FILES}
    for name, entry in everything.items():
        found[_kind(name, run)].append(entry)
    found["cpu"] = [_cpu_builds(everything["torch"])]
    for kind, (file, about) in FILES.items():
        header = f"# {about}\n# Written by tools/lock.py; installed by the Makefile with --require-hashes.\n"
        (ROOT / file).write_text(header + "".join(found[kind]), encoding="utf-8")


def resolved(more: list[str], keep: bool) -> dict[str, str]:
    """Package -> its lines in a requirements file."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "pins.txt")
        pins.write_text("\n".join(_pins() if keep else ()), encoding="utf-8")
        command = [
            "uv", "pip", "compile", "pyproject.toml", "--quiet", "--universal", "--python-version", "3.11",
            "--generate-hashes", "--no-annotate", "--no-header", "--constraint", str(pins), *more,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    entries = re.split(r"^(?=\S)", done.stdout, flags=re.MULTILINE)
    found: dict[str, str] = {}
    for entry in filter(str.strip, entries):  # a package may stand there twice, for older and newer Pythons
        found[_name(entry)] = found.get(_name(entry), "") + entry.rstrip("\n") + "\n"
    return found


def _pins() -> list[str]:
    files = [ROOT / file for kind, (file, _) in FILES.items() if kind != "cpu"]
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    return [pin for text in texts for pin in re.findall(r"^[\w.-]+==[^\s;\\]+", text, re.MULTILINE)]


def _name(entry: str) -> str:
    return re.split(r"[=\s;]", entry, maxsplit=1)[0]


def _kind(name: str, run: dict[str, str]) -> str:
    if name == "torch":
        return "torch"
    if CUDA.match(name):
        return "cuda"
    if name in SOURCE_ONLY:
        return "source"
    return "run" if name in run else "dev"


def _cpu_builds(entry: str) -> str:
    """The same version of PyTorch as builds for a CPU, of those that are known."""
    version = re.match(r"torch==([^\s;]+)", entry)
    assert version is not None
    builds = [sha for file, sha in CPU_BUILDS.items() if file.startswith(f"torch-{version[1]}+cpu-")]
    return "".join(f"torch=={version[1]}+cpu --hash={sha}\n" for sha in builds)


if __name__ == "__main__":
    main()
