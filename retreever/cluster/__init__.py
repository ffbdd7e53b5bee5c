"""Ray below the service: starting training, encoding, indexing and comparing on one machine or many."""
