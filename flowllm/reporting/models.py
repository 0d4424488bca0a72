"""The table by model, and what caches saved, as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flowllm.core.types import Json
from flowllm.reporting.screen import Part
from flowllm.reporting.tables import table
from flowllm.reporting.text import at_least, dollars, duration, plural, visible

_LEAST = ("P50", "STORED", "FAILED", "CACHED", "429s", "P99", "REQUESTS", "THROTTLED")
"""Columns that a narrow terminal has no room for, first those that say least."""
_NAME = 20
"""Columns of a model's name at least."""
NOTABLE = 1.0
"""Seconds of waiting from which they are worth a line."""


def model_table(models: Sequence[Mapping[str, Json]]) -> list[dict[str, str]]:
    """A row a model (`ModelTotals.as_dict`), the dearest first, by the names of its columns; without those that would be empty."""
    named = [(one, *_figures(one)) for one in sorted(models, key=_dearest)]
    several = len({one["provider"] for one in models}) > 1
    rows = [
        {
            "MODEL": f"{visible(one['model'])} at {visible(one['provider'])}" if several else visible(one["model"]),
            "REQUESTS": _unless_none(one["requests"]),
            "FAILED": _unless_none(one["failed"]),
            "429s": _unless_none(one["rate_limited"]),
            "TOKENS IN": tokens_in,
            "CACHED": _share(one),
            "OUT": tokens_out,
            "COST": at_least(one["cost_usd"], one["at_least"]["cost_usd"], dollars) if one["requests"] else "-",
            "P50": duration(one["latency_s"]["p50"]),
            "P99": duration(one["latency_s"]["p99"]),
            "THROTTLED": _throttled(one),
            "STORED": _unless_none(one["response_cache"]["answers"]),
        }
        for one, tokens_in, tokens_out in named
    ]
    names = [name for name in rows[0] if any(row[name].strip("-") for row in rows)] if rows else []
    return [{name: row[name] or "-" for name in names} for row in rows]


def model_lines(models: Sequence[Mapping[str, Json]], width: int | None = None) -> list[tuple[Part, ...]]:
    """The table as lines; of its columns those that say least are left out until it is no wider than `width`."""
    rows = model_table(models)
    return table(rows, right=[*rows[0]][1:], width=width, spare=_LEAST, least=_NAME) if rows else []


def worth_a_table(stats: Mapping[str, Json]) -> bool:
    """Whether the table says more than what the run took in all."""
    models = stats.get("models", ())
    return len(models) > 1 or any(one["throttled_s"] >= NOTABLE for one in models)


def response_cache_line(models: Sequence[Mapping[str, Json]]) -> str:
    """`response cache: 120 answers were stored already, which saved $0.12`; empty where there were none."""
    answers = sum(one["response_cache"]["answers"] for one in models)
    if not answers:
        return ""
    known = sum(one["response_cache"]["saved_usd"] or 0.0 for one in models)
    saved = f", which saved {dollars(known)}" if known else ""
    return f"response cache: {plural(answers, 'answer')} {'was' if answers == 1 else 'were'} stored already{saved}"


def _dearest(one: Mapping[str, Json]) -> tuple[float, int, str]:
    return -one["at_least"]["cost_usd"], -one["requests"], one["model"]


def _figures(one: Mapping[str, Json]) -> tuple[str, str]:
    usage, least = one["usage"], one["at_least"]
    if not one["requests"]:
        return "-", "-"
    names = ("input_tokens", "output_tokens")
    tokens = [at_least(usage[name], least[name], "{:,}".format) for name in names]
    return tokens[0], tokens[1]


def _throttled(one: Mapping[str, Json]) -> str:
    """How long a request waited on average: many that wait at once wait longer, in all, than the run takes."""
    each = one["throttled_s"] / max(1, one["requests"])
    return f"{duration(each)} each" if each >= 0.1 else ""  # noqa: PLR2004 - what is felt


def _unless_none(count: int) -> str:
    return f"{count:,}" if count else ""


def _share(one: Mapping[str, Json]) -> str:
    cached, whole = one["usage"]["cached_input_tokens"], one["usage"]["input_tokens"]
    return f"{cached / whole:.0%}" if cached and whole else ""
