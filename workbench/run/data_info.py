"""What the data of a job are, for its results; and whether they are those of a run that was begun before."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from workbench.data.columns import ByColumns
from workbench.errors import UserError
from workbench.results import DataInfo, SplitInfo
from workbench.run.prepare import Job

LENGTHS = {"shortest": 0.0, "median": 0.5, "90 %": 0.9, "99 %": 0.99, "longest": 1.0}


def quantiles(lengths: np.ndarray) -> dict[str, int]:
    """Of some lengths, by name."""
    found = np.quantile(lengths, list(LENGTHS.values())).astype(int)
    return dict(zip(LENGTHS, map(int, found), strict=True))


def require_same_data(now: DataInfo, before: DataInfo, out: Path) -> None:
    """Compare the data of two results.

    Raises:
        UserError: they differ, so that what was done in `out` can't be gone on with.
    """
    changed = [split for split, info in now.splits.items() if not _is_same(info, before.splits.get(split))]
    if changed:
        raise UserError(
            f"the data of {', '.join(changed)}, or what the recipe makes examples of beside them, have changed since "
            f"{out} was begun: start a new run"
        )


def _is_same(now: SplitInfo, before: SplitInfo | None) -> bool:
    if before is None:
        return False
    known = now.examples_sha256 if before.examples_sha256 else ""  # older versions did not note it
    return _content(replace(now, examples_sha256=known)) == _content(before)


def _content(info: SplitInfo) -> SplitInfo:
    return replace(info, too_long=tuple(info.too_long), remarks=(), lengths=None, contents=None)


def data_of(job: Job) -> DataInfo:
    """What a job's data are."""
    splits = {
        split: SplitInfo(
            examples=len(pairs),
            tokens=int(pairs.lengths.sum()),
            trained_tokens=int(pairs.completion_lengths.sum()),
            too_long=tuple(job.data.too_long[split]),
            sha256=job.data.fingerprints[split],
            examples_sha256=job.data.checksums[split][0],
            lengths=quantiles(pairs.lengths),
            contents=job.data.contents[split],
            remarks=tuple(job.remarks[split]),
        )
        for split, pairs in job.pairs.items()
    }
    make = job.recipe.row_to_examples
    return DataInfo(
        splits=splits,
        repeated=job.data.repeated,
        leaked=job.data.leaked,
        split_seed=None if isinstance(job.recipe.data, Mapping) else job.recipe.split_seed,
        columns=vars(make) if isinstance(make, ByColumns) else None,
        thinking=job.data.thinking,
        template=job.renderer.template.remarks,
        near=job.data.near,
    )
