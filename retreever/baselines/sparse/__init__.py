"""Sparse codes of the encodings: a few active features of many, searched by inverted lists."""
