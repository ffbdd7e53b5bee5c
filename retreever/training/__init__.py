"""Training a routing tree on encodings in plain torch, on a laptop or as one of many workers."""
