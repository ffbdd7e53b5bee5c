"""One running version: its answers, and filters on metadata."""
