"""A recipe carried out: every method trained, scored, exported, recorded."""

from workbench.job.chat import chat
from workbench.job.export import export
from workbench.job.job import (
    Options,
    carry_out,
    keep_options,
    open_folder,
    prepare_options,
    read_options,
    with_methods,
)
from workbench.job.monitor import monitor
from workbench.job.opened import Opened, open_method
from workbench.job.recommend import recommend

__all__ = [
    "Opened",
    "Options",
    "carry_out",
    "chat",
    "export",
    "keep_options",
    "monitor",
    "open_folder",
    "open_method",
    "prepare_options",
    "read_options",
    "recommend",
    "with_methods",
]
