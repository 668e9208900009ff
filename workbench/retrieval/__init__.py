"""Passages of a source that are near to a question, by BM25."""

from workbench.retrieval.index import Index
from workbench.retrieval.passages import Passage, read_passages

__all__ = ["Index", "Passage", "read_passages"]
