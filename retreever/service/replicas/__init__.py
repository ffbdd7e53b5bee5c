"""A version on Ray Serve: the deployments of encoder and retriever, their start, and calls to them."""
