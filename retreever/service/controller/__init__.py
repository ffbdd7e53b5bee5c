"""Which versions serve: follows an alias, keeps copies of bundles, applies live documents."""
