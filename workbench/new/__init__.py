"""A recipe to begin with, written after looking at the data."""
