"""Machines besides this one: work is sent to them, and workers are kept going there. `base.py` says what a cluster does."""
