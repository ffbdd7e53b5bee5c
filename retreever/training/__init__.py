"""Training a routing tree on encodings: plain torch, on a laptop or as one of many workers."""
