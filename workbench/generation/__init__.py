"""Text and likelihoods out of a language model: batched decoding, its cache, and the scoring of choices."""
