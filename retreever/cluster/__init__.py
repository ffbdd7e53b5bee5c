"""Ray: runtime, training, encoding, indexing and comparing, on one machine or many; no sweep or service is known."""
