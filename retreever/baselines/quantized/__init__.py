"""Quantised codes of the frozen encodings, beyond the plain product quantiser."""
