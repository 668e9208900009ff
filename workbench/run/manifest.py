"""What a finished trial left, by its checksums: what is read of it later is what was written then."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from workbench import files
from workbench.errors import UserError
from workbench.results import RunRecord, to_json
from workbench.run.folder import TrialFolder
from workbench.sources import cached_sha256

MANIFEST_FILE = "manifest.json"
# A larger file is not read again while its size and time are the same.
READ_BYTES = 2**26


def sealed(trial: TrialFolder, record: RunRecord) -> RunRecord:
    """Note the checksums of all that a trial left for later, and of its record, which says so from now on."""
    record = replace(record, manifest=True)
    checksums = {_name(trial, path): _sha256(path) for path in _left(trial, record)}
    files.write_json(trial.path / MANIFEST_FILE, {"record": _digest(record), "files": checksums})
    return record


def changes(trial: TrialFolder, record: RunRecord) -> list[str]:
    """What is not as it was when the trial was finished: names of files, and "its record in results.json".

    Of a run of an older version, which left no checksums, nothing can be said.
    """
    manifest = trial.path / MANIFEST_FILE
    if not record.manifest and not manifest.is_file():
        return []
    try:
        noted = json.loads(manifest.read_text(encoding="utf-8"))
        expected, digest = dict(noted["files"]), noted["record"]
    except (OSError, ValueError, KeyError, TypeError):
        return [MANIFEST_FILE if trial.path.is_dir() else trial.path.name]
    found = [] if digest == _digest(record) else ["its record in results.json"]
    for name, checksum in expected.items():
        path = trial.path / name
        if not path.is_file() or _sha256(path) != checksum:
            found.append(name)
    # A file that was put beside what is read, such as an adapter beside a model, may be read with it.
    read_whole = {trial.adapter, trial.merged, trial.trained}
    beside = [_name(trial, path) for path in _left(trial, record) if read_whole & set(path.parents)]
    return found + [name for name in beside if name not in expected]


def require_unchanged(trial: TrialFolder, record: RunRecord) -> None:
    """See that what a finished trial left is what it was.

    Raises:
        UserError: it is not; what changed is named.
    """
    if changed := changes(trial, record):
        raise UserError(
            f"{record.method} in {trial.path.parent} is not as the run left it: {changes_text(changed)}. Bring back "
            f"what was there, or let it be done again: python -m workbench.run --resume {trial.path.parent}"
        )


def changes_text(changed: list[str]) -> str:
    """What changed, in half a sentence; of many things the first few."""
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"{', '.join(changed[:3])}{more} changed, new or missing"


def _left(trial: TrialFolder, record: RunRecord) -> Iterator[Path]:
    """Files that stay; TensorBoard's curves are for looking at, and trained weights go where they were merged."""
    passing = {trial.training, *([trial.trained] if record.export.merged else [])}
    for path in sorted(trial.path.rglob("*")):
        if path.is_file() and path.name != MANIFEST_FILE and not passing & set(path.parents):
            yield path


def _name(trial: TrialFolder, path: Path) -> str:
    return path.relative_to(trial.path).as_posix()


def _sha256(path: Path) -> str:
    return files.sha256_of(path) if path.stat().st_size <= READ_BYTES else cached_sha256(path)


def _digest(record: RunRecord) -> str:
    """Of what a record says; a field of a newer version, at its default, says nothing about a run of an older one."""
    usual = {f.name: f.default for f in fields(record) if f.default and f.default is not MISSING}
    said = {name: value for name, value in to_json(record).items() if name not in usual or value != usual[name]}
    return hashlib.sha256(json.dumps(_plain(said), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Numbers are the same whether they stand there as 4 or 4.0."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
