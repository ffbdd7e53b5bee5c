"""What Ray Serve runs of a version: an encoder and a retriever, started and asked from elsewhere."""
