"""Hybrids: BM25 fused with a system that ranks by vectors."""
