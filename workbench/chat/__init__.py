"""A conversation with a tuned model in the terminal."""
