"""Sums of money as people read them."""

from __future__ import annotations

import math

_FIGURES = 4
_CENTS = 2


def dollars(usd: float) -> str:
    """To four significant digits, and to the cent at least: $0, $0.00001234, $0.25, $1.234, $1,234.56."""
    if usd == 0:
        return "$0"
    digits = max(_CENTS, _FIGURES - 1 - math.floor(math.log10(abs(usd))))
    whole, _, rest = f"{usd:,.{digits}f}".partition(".")
    rest = rest.rstrip("0")
    return f"${whole}.{rest if abs(usd) < 1 else rest.ljust(_CENTS, '0')}"
