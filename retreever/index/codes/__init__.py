"""Quantised codes of passages, each with an upper bound of the similarity to any query."""
