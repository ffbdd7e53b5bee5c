"""A trained tree with its corpus: search, documents, and what the nodes mean."""
