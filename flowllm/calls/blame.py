"""Whether one ask of a batch may be why all of it was refused, and how that is found out with few requests. Pure.

Halving finds the ask at fault, as long as some part is answered. If both halves are refused in the same words, a few
asks are tried alone, the most different ones by size: if all of them are refused in those words too, no ask is at
fault, and the rest would hear the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from flowllm.core.errors import (
    ContentFiltered,
    PathNotFound,
    RequestRejected,
    RequestTooLarge,
    ServerFailed,
    UnknownModel,
    WrongVectors,
)

_ITS_FAULT = frozenset({None, 200, 400, 413, 415, 422, 424, 451})
"""HTTP statuses of a refusal that may be one ask's fault; None: it was refused here, as too large."""
LEAST_TRIED = 3
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\d+")


def may_be_one_alone(error: BaseException) -> bool:
    """One of the batch may be why all of it failed."""
    if isinstance(error, RequestRejected) and not isinstance(error, RequestTooLarge):
        return error.status in _ITS_FAULT and not isinstance(error, UnknownModel | PathNotFound)
    return isinstance(error, RequestTooLarge | ContentFiltered | ServerFailed | WrongVectors)


def words_of(error: BaseException) -> tuple[type, str]:
    """The kind of an error and what it says, numbers and quoted words left out: those name an ask."""
    return type(error), _QUOTED.sub("", str(error))


def tried_alone(sizes: Sequence[int], error: BaseException) -> list[int]:
    """The places of those asks to try: about log2 of their number, from the smallest to the largest by turns.

    A server in trouble is tried a few times whatever their number: each of them is sent several times.
    """
    wanted = LEAST_TRIED
    if sizes and not isinstance(error, ServerFailed):
        wanted = max(wanted, math.ceil(math.log2(len(sizes))) - 2)
    wanted = min(wanted, len(sizes))
    order = sorted(range(len(sizes)), key=lambda place: sizes[place])
    spread = [order[round(step * (len(order) - 1) / max(1, wanted - 1))] for step in range(wanted)]
    return [spread[step // 2 if step % 2 == 0 else -1 - step // 2] for step in range(wanted)]
