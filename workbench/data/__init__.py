"""From rows to examples, and from examples to the exact tokens a model sees."""

from workbench.data.examples import Example, Message, Splits, choice, conversation, load_splits

__all__ = ["Example", "Message", "Splits", "choice", "conversation", "load_splits"]
