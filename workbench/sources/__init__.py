"""Where checkpoints and data come from: a hub, a local folder, or a package of the user's own registry."""

from workbench.sources.checkpoints import Checkpoint, fetch_checkpoint
from workbench.sources.rows import Row, read_rows

__all__ = ["Checkpoint", "Row", "fetch_checkpoint", "read_rows"]
