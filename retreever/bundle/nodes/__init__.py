"""What the nodes of a tree mean: their words, examples and names."""
