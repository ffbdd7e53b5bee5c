"""One version at work: what it answers, and filters on metadata."""
