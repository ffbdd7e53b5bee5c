"""Matryoshka heads: every prefix of the vector is an embedding (Kusupati 2022)."""
