"""Baselines that rank by the cosine of vectors: exact, approximate, shortened or quantised."""
