"""What the machine offers: files, storage, locks, threads, memory and progress; nothing of retrieval is known here."""
