"""A tree beside its baselines on one split: who ranks better, at which size, and how sure that is."""
