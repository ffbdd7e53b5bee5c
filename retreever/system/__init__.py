"""The machine: files, storage, locks, threads, memory and progress. It knows nothing of retrieval."""
