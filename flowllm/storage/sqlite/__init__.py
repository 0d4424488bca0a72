"""The store on SQLite: one writer that commits in groups, many readers."""
