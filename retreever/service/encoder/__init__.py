"""Texts to node probabilities for many callers: batching, and encoders in processes of their own."""
