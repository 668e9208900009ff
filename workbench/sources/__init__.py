"""Where checkpoints and data come from: a hub, a local folder, or a package of the user's own registry."""

from workbench.sources.cache import cached_sha256
from workbench.sources.catalogue import package_file
from workbench.sources.checkpoints import Checkpoint, base_sha256, fetch_checkpoint, public_name, weights_sha256
from workbench.sources.packages import SMOLLM2, fetch_file
from workbench.sources.readers import DataFile, Row
from workbench.sources.rows import Fingerprint, Source, name_of, open_rows, read_rows

__all__ = [
    "SMOLLM2",
    "Checkpoint",
    "DataFile",
    "Fingerprint",
    "Row",
    "Source",
    "base_sha256",
    "cached_sha256",
    "fetch_checkpoint",
    "fetch_file",
    "name_of",
    "open_rows",
    "package_file",
    "public_name",
    "read_rows",
    "weights_sha256",
]
