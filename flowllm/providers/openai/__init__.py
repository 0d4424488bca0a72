"""Servers that speak OpenAI's API, behind the protocol of `base.py`."""
