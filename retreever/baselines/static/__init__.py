"""Static word vectors: texts as weighted means of vectors that their words have without context."""
