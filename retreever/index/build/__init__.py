"""From node probabilities to segments, and fewer segments from many."""
