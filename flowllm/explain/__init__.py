"""The graph of a workflow and what a run of it would cost."""
