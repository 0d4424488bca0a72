"""What differs between two values, as plain values that are shown or printed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

from flowllm.core.fingerprint import differences
from flowllm.core.records import dataclass
from flowllm.core.types import Json, NodeStatus, StepKind
from flowllm.reporting.text import json_text, plural
from flowllm.storage.base import NodeRecord
from flowllm.views.standing import standing
from flowllm.views.text_diff import DiffLine, text_diff

SHORT = 30
"""Characters of a value that has room beside another one."""
FLAT = 90
"""Characters of JSON that stand on one line."""
MOST_MEANS = 20
"""Fields of outputs whose means are taken."""


class Verdict(StrEnum):
    """What became of a step, or of an item, since the earlier run."""

    SAME = "same"
    CHANGED = "changed"
    ADDED = "added"
    REMOVED = "removed"
    OPEN = "open"
    """It has not ended in a run that goes on, which is no change."""


NO_CHANGE = frozenset({Verdict.SAME, Verdict.OPEN})


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One place at which two values differ."""

    path: str
    """Dotted, such as `tags.0`; empty: the whole value."""
    before: Json
    after: Json

    @property
    def delta(self) -> float | None:
        """By how much a number rose; None: one of both is none."""
        return self.after - self.before if is_number(self.before) and is_number(self.after) else None

    @property
    def short(self) -> bool:
        """Both have room beside each other."""
        return self.delta is not None or all(is_short(one) and one is not None for one in (self.before, self.after))

    def lines(self, width: int = FLAT) -> tuple[DiffLine, ...]:
        """Both as texts; what is no text as JSON, on one line where it is alone and no longer than `width`."""
        if self.before is None or self.after is None:
            sign, only = ("+", self.after) if self.before is None else ("-", self.before)
            return tuple(DiffLine(sign=sign, parts=((line, True),)) for line in lines_of(only, width))
        before, after = (value if isinstance(value, str) else json_text(value) for value in (self.before, self.after))
        return text_diff(before, after)

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {"path": self.path, "before": self.before, "after": self.after, "delta": self.delta}


def field_changes(before: Json, after: Json) -> tuple[FieldChange, ...]:
    """Every place at which they differ, in the order of the values."""
    return tuple(FieldChange(path=path, before=old, after=new) for path, old, new in differences(before, after))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How a node ended, and what it took; of a foreach, what all its items took together."""

    status: NodeStatus
    model: str
    tokens: int | None
    cost_usd: float | None
    call_s: float
    """Seconds in calls."""
    cached: bool
    error: Mapping[str, Json] | None

    @classmethod
    def of(cls, node: NodeRecord | None, *, going: bool) -> Figures | None:
        """Of a node's row; `going`: its run is under way."""
        if node is None:
            return None
        return cls(
            status=standing(node.status, going=going),
            model=node.model,
            tokens=node.usage.total,
            cost_usd=node.cost_usd,
            call_s=node.call_s,
            cached=node.cached,
            error=node.error,
        )

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {
            "status": self.status.value,
            "model": self.model or None,
            "tokens": self.tokens,
            "cost_usd": self.cost_usd,
            "call_s": round(self.call_s, 3),
            "cached": self.cached,
            "error": None if self.error is None else dict(self.error),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A number in the outputs of those items that differ."""

    path: str
    items: int
    before: float
    after: float

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        delta = self.after - self.before
        return {"path": self.path, "items": self.items, "before": self.before, "after": self.after, "delta": delta}


class Means:
    """The means of numbers that stand at the same place in pairs of outputs."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def see(self, before: Json, after: Json) -> None:
        """Take a pair in."""
        old = dict(_numbers(before, ""))
        for path, new in _numbers(after, "") if old else ():
            if path in old and (path in self._sums or len(self._sums) < MOST_MEANS):
                sums = self._sums.setdefault(path, [0, 0.0, 0.0])
                sums[0] += 1
                sums[1] += old[path]
                sums[2] += new

    def found(self) -> tuple[Mean, ...]:
        """Those that are not what they were."""
        return tuple(
            Mean(path=path, items=int(count), before=before / count, after=after / count)
            for path, (count, before, after) in self._sums.items()
            if before != after
        )


def _numbers(value: Json, path: str) -> Iterator[tuple[str, float]]:
    """Those outside of lists."""
    if is_number(value):
        yield path, value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _numbers(one, f"{path}.{key}" if path else key)


def is_number(value: Json) -> bool:
    """Not what is true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemCounts:
    """What became of the items of a foreach, of a run that goes on as far as they have ended."""

    same: int
    changed: int
    added: int
    removed: int

    @property
    def differ(self) -> int:
        """All but the same."""
        return self.changed + self.added + self.removed

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {"same": self.same, "changed": self.changed, "added": self.added, "removed": self.removed}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepComparison:
    """A step in both runs."""

    step: str
    kind: StepKind
    verdict: Verdict
    before: Figures | None
    after: Figures | None
    items: ItemCounts | None
    means: tuple[Mean, ...]
    why: tuple[str, ...]
    """What of its request differs, in a word each; of a foreach, of some of its items."""

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {
            "step": self.step,
            "kind": self.kind.value,
            "verdict": self.verdict.value,
            "before": None if self.before is None else self.before.as_dict(),
            "after": None if self.after is None else self.after.as_dict(),
            "items": None if self.items is None else self.items.as_dict(),
            "means": [mean.as_dict() for mean in self.means],
            "why": list(self.why),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChange:
    """A step without items, or an item, that is not what it was."""

    node: str
    """Its name in the later run; of one that was removed, in the earlier one."""
    base_node: str | None
    """Its name in the earlier run: an item that moved may have another one."""
    step: str
    verdict: Verdict
    item: Json
    before: Figures | None
    after: Figures | None
    fields: tuple[FieldChange, ...]
    """Where its outputs differ, the first MOST_FIELDS; of one that was added or removed, all of its output."""
    more_fields: int
    why: tuple[str, ...]

    def as_dict(self) -> dict[str, Json]:
        """As JSON."""
        return {
            "node": self.node,
            "base_node": self.base_node,
            "step": self.step,
            "verdict": self.verdict.value,
            "item": self.item,
            "before": None if self.before is None else self.before.as_dict(),
            "after": None if self.after is None else self.after.as_dict(),
            "fields": [one.as_dict() for one in self.fields],
            "more_fields": self.more_fields,
            "why": list(self.why),
        }


def differs(step: StepComparison) -> str:
    """`same`, `failed → succeeded`, `37 of 2,000 items, 1 added`."""
    found = []
    before, after, items = step.before, step.after, step.items
    if before is not None and after is not None and before.status is not after.status:
        found.append(f"{before.status} → {after.status}")
    if items is not None:
        if items.changed:
            found.append(f"{items.changed:,} of {plural(items.same + items.changed, 'item')}")
        found += [f"{count:,} {word}" for count, word in ((items.added, "added"), (items.removed, "removed")) if count]
    if step.verdict is Verdict.OPEN and not found:
        return "not there yet"
    return ", ".join(found) or step.verdict.value


def why(step: StepComparison) -> str:
    """`prompt, model a → b`."""
    before, after = step.before, step.after
    models = "" if before is None or after is None or before.model == after.model else f"{before.model} → {after.model}"
    words = [f"model {models}" if word == "model" and models else word for word in step.why]
    return ", ".join(words)


def number(value: float) -> str:
    """Without digits that nobody reads."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def signed(value: float) -> str:
    """A difference, with its sign."""
    return f"+{number(value)}" if value > 0 else number(value)


def is_short(value: Json) -> bool:
    """It has room beside another one."""
    if isinstance(value, str):
        return len(value) <= SHORT and "\n" not in value
    return value is None or isinstance(value, bool) or is_number(value)


def lines_of(value: Json, width: int) -> list[str]:
    """A value as lines: a text as it is, JSON on one line where it is no longer than so many characters."""
    if isinstance(value, str):
        return value.removesuffix("\n").split("\n")
    text = json_text(value, indent=None)
    return [text] if len(text) <= width else json_text(value).splitlines()
