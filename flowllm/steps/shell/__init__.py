"""`shell` steps: commands."""
