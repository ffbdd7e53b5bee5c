"""Hyperparameter sweeps: the grammar of search spaces, Ray Tune, and the answer to a space's question."""
