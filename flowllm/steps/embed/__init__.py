"""`embed` steps: vectors of texts."""
