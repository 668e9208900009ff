"""Watching a stream of texts: classified, counted by topic and window, held against what history explains."""

from workbench.monitoring.surge import Judgement, Surges, Window, surge_p_value
from workbench.monitoring.watch import Watch

__all__ = ["Judgement", "Surges", "Watch", "Window", "surge_p_value"]
