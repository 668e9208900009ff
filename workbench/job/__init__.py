"""A recipe carried out: every method trained, scored, exported, recorded."""

from workbench.job.job import Options, carry_out
from workbench.job.prepare import Job, prepare

__all__ = ["Job", "Options", "carry_out", "prepare"]
