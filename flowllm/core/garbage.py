"""Imports without the collector of garbage, which takes a tenth of their time and finds nothing.

Only in a process of flowllm's own, which says so: the collector of a host program is not ours.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_owned: list[bool] = []


def own_process() -> None:
    """The command line says that the process is its own."""
    _owned.append(True)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """In a process of our own: no collection meanwhile, if there are any; afterwards none looks through what there is."""
    if not _owned or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
