"""From node probabilities to segments, and from many segments to few."""
