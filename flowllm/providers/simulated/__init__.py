"""A provider that needs no network, behind the protocol of `base.py`."""
