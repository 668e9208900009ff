"""Settings chosen by trials: what is tried next, what is stopped early, what was best."""

from workbench.tune.study import TOGETHER, Outcome, Proposal, Study, is_behind

__all__ = ["TOGETHER", "Outcome", "Proposal", "Study", "is_behind"]
