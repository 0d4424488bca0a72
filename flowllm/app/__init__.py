"""flowllm as a library: runs from their claim to their end, and the wiring of concrete classes."""
