"""What one loads and asks: a trained tree with its corpus, its documents, and what its nodes mean."""
