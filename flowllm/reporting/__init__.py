"""Readers of the event stream; they change nothing."""
