"""Watching a stream of texts: classified, counted by topic and window, held against what history explains."""
