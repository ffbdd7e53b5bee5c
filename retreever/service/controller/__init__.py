"""Decides which versions serve: follows an alias, copies bundles, carries live documents over."""
