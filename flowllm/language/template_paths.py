"""What can be named in a template besides local names: `inputs.x`, `run.x`, `secrets.X` and `steps.x.…`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from flowllm.language.problems import nearest
from flowllm.language.reference import Part, Tolerance
from flowllm.language.sandbox_methods import MAPPING_METHODS
from flowllm.language.template_syntax import Fault

Key: TypeAlias = "tuple[str | None, int]"
"""One part of a path such as `.usage` or `['usage']`, and its offset; None where it is computed."""

RUN_FIELDS: Final = ("id", "date", "started_at")
RECORD_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "usage": ("input_tokens", "output_tokens", "cached_input_tokens", "reasoning_tokens", "cache_write_tokens"),
    "status": (),
    "error": ("type", "message", "hint", "answer"),
    "model": (),
    "cached": (),
    "cost_usd": (),
    "rows": (),
    "counts": ("total", "succeeded", "failed", "skipped", "accepted", "not_sent"),
}
"""What `steps.x` has, and what each of its mappings has."""
OUTPUT_WORDS: Final = frozenset(
    {"output", "outputs", "text", "content", "result", "response", "answer", "value", "message"}
)
"""What other systems call a step's output."""
TOLERANT_FIELDS: Final = frozenset({"status", "error"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names that exist where a template stands."""

    inputs: frozenset[str]
    steps: frozenset[str]
    secrets: frozenset[str] = frozenset()
    local: frozenset[str] = frozenset()
    """Plain names, such as those of an item and its index."""
    outputs: frozenset[str] | None = None
    """Keys of `outputs`, where that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A step that a template names at an offset; `tolerance` None is a plain reference to its output."""

    step: str
    offset: int
    tolerance: Tolerance | None = None
    part: Part = Part.OUTPUT


class Paths:
    """Checks the paths of one template; gathers the faults found and the steps mentioned."""

    def __init__(self, names: Names, *, allow_secrets: bool) -> None:
        self._names = names
        self._allow_secrets = allow_secrets
        self.mentions: list[Mention] = []
        self.faults: list[Fault] = []

    def fault(self, offset: int, message: str, hint: str = "") -> None:
        """Add a fault."""
        self.faults.append(Fault(offset=offset, message=message, hint=hint))

    def check(self, root: str, keys: Sequence[Key], offset: int, *, called: bool) -> None:
        """A path from one of ROOTS; `called`: the last of its keys is followed by `(…)`."""
        if root == "inputs":
            self.keys(keys[:1], self._names.inputs, "input", "", called=called and not keys[1:])
        elif root == "run":
            self.keys(keys[:1], RUN_FIELDS, "field", " of `run`", called=called and not keys[1:])
        elif root == "secrets":
            self.secret(keys, offset)
        else:
            self.record(keys, offset, called=called)

    def keys(self, keys: Sequence[Key], known: Iterable[str], what: str, owner: str, *, called: bool) -> None:
        """The key, if it is written out, is one of those that are known, or a method's that is called."""
        for key, offset in keys:
            if key is None or key in known or (called and key in MAPPING_METHODS):
                continue
            hint = nearest(key, known) or ("" if known else f"there is no {what} at all")
            if owner.startswith(" of `steps.") and key in OUTPUT_WORDS and owner.count(".") == 1:
                hint = f"the output of a step goes by its id: {{{{ {owner[11:-1]} }}}}"
            self.fault(offset, f"unknown {what} `{key}`{owner}", hint)

    def secret(self, keys: Sequence[Key], offset: int) -> None:
        """`secrets.NAME`: allowed here, named, and listed by the workflow."""
        if not self._allow_secrets:
            self.fault(
                offset,
                "secrets cannot be used here",
                "only `with` of a python step, `url`, `query` and `headers` of `http`, and `env` may use `{{ secrets.NAME }}`",
            )
        elif not keys or keys[0][0] is None:
            self.fault(offset, "a secret must be named", "write `secrets.NAME`")
        elif keys[0][0] not in self._names.secrets:
            known = nearest(str(keys[0][0]), self._names.secrets)
            self.fault(keys[0][1], f"unknown secret `{keys[0][0]}`", known or "list it under `secrets` of the workflow")

    def record(self, keys: Sequence[Key], offset: int, *, called: bool) -> None:
        """`steps.x.…`: a step that exists, a field that its record has; mentions the step."""
        if not keys or keys[0][0] is None:
            self.fault(offset, "`steps` cannot be used as a whole", "name the step: `steps.x.status`")
            return
        step, place = keys[0]
        if step is None or step not in self._names.steps:
            self.fault(place, f"unknown step `{step}`", nearest(str(step), self._names.steps))
            return
        name = keys[1][0] if len(keys) > 1 else None
        owner = f" of `steps.{step}`"
        self.keys(keys[1:2], RECORD_FIELDS, "field", owner, called=called and not keys[2:])
        below = RECORD_FIELDS.get(name or "")
        if below:
            owner = f" of `steps.{step}.{name}`"
            self.keys(keys[2:3], below, "field", owner, called=called and not keys[3:])
        tolerant = name in TOLERANT_FIELDS or name not in RECORD_FIELDS  # the record as a whole tells how it ended
        tolerance = Tolerance.ANY if tolerant else None
        for part in _parts(name):
            self.mentions.append(Mention(step=step, offset=offset, tolerance=tolerance, part=part))


def _parts(field: str | None) -> tuple[Part, ...]:
    """What of a step is looked at by a field of its record; the whole record has the rows in it."""
    if field == "rows":
        return (Part.ROWS,)
    return (Part.RECORD,) if field in RECORD_FIELDS else (Part.RECORD, Part.ROWS)
