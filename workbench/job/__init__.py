"""A recipe carried out: every method trained, scored, exported, recorded."""

from workbench.job.export import export
from workbench.job.job import Options, carry_out, open_folder, prepare_options, read_options

__all__ = ["Options", "carry_out", "export", "open_folder", "prepare_options", "read_options"]
