"""How a run is executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, TypeAlias

from flowllm.core.types import Json

MaxConcurrent: TypeAlias = int | Literal["auto"]
"""Requests in flight from 1; "auto": as many as are found to suit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run is executed. Kept with the run, so that a resume repeats them (all but `until`, and `tags`)."""

    provider: str | None = None
    """The default provider; `simulated` replaces all."""
    model: str | None = None
    """The default model."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Options of single steps, such as {"judge.model": "gpt-4o"}."""
    max_concurrent: MaxConcurrent | None = None
    """Requests in flight: in place of `limits.max_concurrent` on the default provider, lowering it on others. "auto": the
    default provider's is found, as if none were written; others keep theirs."""
    no_cache: bool = False
    """The response cache is neither read nor written."""
    refresh: tuple[str, ...] = ()
    """Steps that are asked anew though their answer is cached."""
    until: str | None = None
    """Only this step and what it needs."""
    fail_fast: bool = False
    """Stop at the first failure."""
    grace: float = 60.0
    """Seconds that calls in flight get to finish when the run is told to stop."""
    priority: str | None = None
    """high, normal or low, for steps that name none."""
    limit: int | None = None
    """Only so many first items of every foreach, and rows of `over`."""
    over: str | None = None
    """A data set each of whose rows is one run of the graph: an absolute path, or `-` for standard input."""
    output: str | None = None
    """Where what comes of the rows is written: an absolute path, or `-` for standard output."""
    format: str | None = None
    """How `over` is read: jsonl, json, csv or lines; None: by its ending, or as it begins."""
    delimiter: str | None = None
    """Of CSV."""
    ordered: bool = False
    """In the order of the rows."""
    overwrite: bool = False
    """`output` may exist already."""
    budget: Mapping[str, float] | None = None
    """Amounts, `usd` and `tokens`, in place of those of the workflow's `budget`."""
    cluster: str | None = None
    """Where workers are, and steps with `resources` are carried out: `ray`, or the address of a Ray cluster."""
    config: str | None = None
    """Absolute path of the flowllm.yaml that is in force; filled in by the run."""
    mended: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    """Items in place of those of the data: by foreach and index, [the content that they are for, the item]."""
    tags: tuple[str, ...] = ()
    """What the run is to be found by; they stand in its record."""
    given: tuple[str, ...] | None = None
    """Names of the inputs that were given, the others having their defaults; filled in by the run."""

    def as_dict(self) -> dict[str, Json]:
        """What is stored with the run: what differs from the default, without `until` and `tags`."""
        stored = [one for one in fields(self) if one.name not in {"until", "tags"}]
        default = RunOptions()
        values = [(one.name, getattr(self, one.name)) for one in stored]
        return {name: _plain(value) for name, value in values if value != getattr(default, name)}

    @classmethod
    def of(cls, record: Mapping[str, Json]) -> RunOptions:
        """The options that `as_dict` gave."""
        given = record.get("given")
        return cls(
            **{**record, "refresh": tuple(record.get("refresh", ())), "given": None if given is None else tuple(given)}
        )


def _plain(value: Json) -> Json:
    """As JSON has it."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
