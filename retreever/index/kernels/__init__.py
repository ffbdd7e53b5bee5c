"""Loops compiled by numba: exact similarities, bounds from codes, and top-k heaps."""
