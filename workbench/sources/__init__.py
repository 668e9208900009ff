"""Where checkpoints and data come from: a hub, a local folder, or a package of the user's own registry."""

from workbench.sources.checkpoints import Checkpoint, fetch_checkpoint
from workbench.sources.packages import fetch_file
from workbench.sources.rows import Row, Source, fingerprint, read_rows

__all__ = ["Checkpoint", "Row", "Source", "fetch_checkpoint", "fetch_file", "fingerprint", "read_rows"]
