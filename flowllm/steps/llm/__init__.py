"""`prompt` and `messages` steps: chat completions."""
