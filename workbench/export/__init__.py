"""From a trained model to a plain checkpoint: merge, save, reload in a fresh process, prove equal."""

from workbench.export.merge import Proof, save_adapter, ship_merged

__all__ = ["Proof", "save_adapter", "ship_merged"]
