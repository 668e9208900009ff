"""From rows to examples, and from examples to the exact tokens a model sees."""

from workbench.data.examples import Example, Message, choice, conversation
from workbench.data.figures import with_other_figures
from workbench.data.prepared import PreparedData, prepare_data
from workbench.data.splits import Splits, load_splits
from workbench.data.store import Store

__all__ = [
    "Example",
    "Message",
    "PreparedData",
    "Splits",
    "Store",
    "choice",
    "conversation",
    "load_splits",
    "prepare_data",
    "with_other_figures",
]
