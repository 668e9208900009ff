"""Passages of a source that are near to a question, by their words and by the questions that are known of them."""

from workbench.retrieval.finder import SectionFinder
from workbench.retrieval.index import Index
from workbench.retrieval.passages import Passage, read_passages, read_sections

__all__ = ["Index", "Passage", "SectionFinder", "read_passages", "read_sections"]
