"""Imports without the collector of garbage, which takes a tenth of their time and finds nothing."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """No collection meanwhile, if there are any; afterwards all that there is counts as old, as after many of them.

    A process that has frozen what it had (`gc.freeze`) has the rest frozen too.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        frozen = gc.get_freeze_count()
        gc.freeze()
        if not frozen:
            gc.unfreeze()  # into the oldest generation
        gc.enable()
