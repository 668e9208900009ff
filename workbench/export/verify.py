"""Whether an export is still what was proven: its files against the checksums in its `MANIFEST.json`."""

import json
import re
from pathlib import Path
from typing import Any

from workbench import files
from workbench.errors import UserError

# In a checkpoint: what it was made from, how it was proven, and the sha256 of its other files.
MANIFEST_FILE = "MANIFEST.json"
# What stands beside the files of a repository that was cloned or downloaded from a hub.
OF_A_HUB = re.compile(r"\.gitattributes$|\.git/|\.cache/")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export.

    Raises:
        UserError: the folder has none, or it can't be read.
    """
    file = folder / MANIFEST_FILE
    if not file.is_file():
        raise UserError(f"{folder} has no {MANIFEST_FILE}: it is no export, or one of an older version")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        checksums = manifest["files"]
        if not all(isinstance(one, str) for pair in checksums.items() for one in pair):
            raise TypeError("a checksum is no text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} can't be read: {type(error).__name__}; fetch the export again") from error
    return dict(manifest)


def checksums_of(folder: Path) -> dict[str, str]:
    """The sha256 of every file of an export, by its name; what a hub puts beside them is no part of it."""
    there = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: files.sha256_of(path)
        for name, path in there.items()
        if name != MANIFEST_FILE and not OF_A_HUB.match(name)
    }


def changes(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """What is not as it was proven, in half sentences: files that changed, are missing or are new."""
    expected, found = manifest["files"], checksums_of(folder)
    return [
        *(f"{name} is missing" for name in expected if name not in found),
        *(f"{name} has changed" for name in expected if found.get(name, expected[name]) != expected[name]),
        *(f"{name} was not there" for name in found if name not in expected),
    ]


def manifest_text(manifest: dict[str, Any]) -> str:
    """From what an export was made, for people."""
    base, proof = manifest.get("base", {}), manifest.get("proof", {})
    made_with = ", ".join(f"{name} {version}" for name, version in manifest.get("made_with", {}).items())
    lines = [
        f"recipe {manifest.get('recipe')}, method {manifest.get('method')}, seed {manifest.get('seed')}",
        f"base {base.get('name')}, sha256 {base.get('sha256')}",
        f"made with {made_with}",
    ]
    if manifest.get("format"):
        lines.insert(0, f"format {manifest['format']}, {manifest.get('quantization')}")
    if proof.get("max_abs_logit_difference") is not None:
        lines.append(
            f"proven: largest logit difference {proof['max_abs_logit_difference']:.2g} of "
            f"{proof['max_abs_logit']:.3g}, "
            f"the same answer on {proof['greedy_agreement']:.1%} of {proof['prompts']} prompts"
        )
    elif proof.get("divergence") is not None:
        lines.append(f"proven: next tokens {proof['divergence']:.2g} nats from the trained model's")
    return "\n".join(lines)
