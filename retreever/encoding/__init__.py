"""From texts to vectors: the frozen encoder, lexical features, and the memory-mapped store of encodings."""
