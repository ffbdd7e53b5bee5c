"""Texts to node probabilities for many callers: batching, and encoders in separate processes."""
