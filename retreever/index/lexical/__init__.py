"""The lexical side of an index: words of passages, their BM25 scores, and what a hybrid search adds to similarities."""
