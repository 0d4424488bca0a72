"""Fan-outs whose requests begin alike, on a server with a cache of prompts and on one without."""

from __future__ import annotations

import itertools
import json
import random
import statistics
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.harness import (
    Figure,
    RemoteServer,
    Scale,
    alternately,
    provider_of,
    ratio,
    seconds,
    serving,
    timed_run,
)
from tests.benchmarks.server import Behaviour
from tests.support.prompt_cache import BYTES

TOKENS = 4_000
QUESTIONS = 10
IN_FLIGHT = 20
ANSWERED = 0.65
"""Seconds that an answer takes once the prompt was read."""
READ = 6_700.0
"""Tokens that the server reads in a second."""
CACHED = 0.1
"""What a token costs that is read from the cache."""
_MATRIX = """
limits: {{max_concurrent: {width}, prefix_cache: {mode}}}
steps:
  ask:
    foreach: {{matrix: {{doc: {{file: {documents}}}, question: "{{{{ range({questions}) | list }}}}"}}}}
    prompt: "{{{{ item.doc.text }}}} And what does it say about subject number {{{{ item.question }}}}?"
"""
_SYSTEM = """
limits: {{max_concurrent: {width}, prefix_cache: {mode}}}
steps:
  ask:
    foreach: "{{{{ range({items}) | list }}}}"
    system: {system}
    prompt: "What does it say about subject number {{{{ item }}}}?"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What one run took, and what its server saw."""

    took: float
    cold: int
    cost: float
    """Of the input, where 1 is nothing cached."""
    cached: float
    """The share of tokens."""


class Library:
    """Documents, new ones for every run."""

    def __init__(self, folder: Path, documents: int) -> None:
        self._folder = folder
        self._documents = documents
        self._serial = itertools.count()

    def file(self) -> Path:
        number = next(self._serial)
        path = self._folder / f"documents-{number}.jsonl"
        rows = (json.dumps({"text": document(f"{number} {one}")}) for one in range(self._documents))
        path.write_text("\n".join(rows) + "\n")
        return path


def document(seed: str) -> str:
    """A text of that many tokens that begins like no other."""
    draw = random.Random(seed)
    words = [draw.randbytes(3).hex() for _ in range(TOKENS * BYTES // 7)]
    return " ".join(words).ljust(TOKENS * BYTES, ".")


def _server(scale: Scale, *, cache: int) -> Behaviour:
    quicker = scale.of(1, 4)
    return Behaviour(latency=ANSWERED / quicker, reads=READ * quicker, cache=cache)


def _sent(server: RemoteServer, behaviour: Behaviour, database: Path, text: str) -> Sent:
    server.begin_anew(behaviour)
    took = timed_run(database, provider_of(server) + text)
    seen = server.counters()
    uncached = seen["prompt_tokens"] - seen["cached_tokens"]
    return Sent(
        took=took,
        cold=seen["cold"],
        cost=(uncached + CACHED * seen["cached_tokens"]) / seen["prompt_tokens"],
        cached=seen["cached_tokens"] / seen["prompt_tokens"],
    )


def matrix(scale: Scale) -> list[Figure]:
    """Each of ten questions to each of thirty documents, in the order in which a `matrix` gives them."""
    documents = scale.of(30, 12)
    library = Library(scale.folder, documents)
    cached, uncached = _server(scale, cache=10_000), _server(scale, cache=0)

    def text(mode: str, width: int = IN_FLIGHT, questions: int = QUESTIONS) -> str:
        return _MATRIX.format(width=width, mode=mode, documents=library.file().name, questions=questions)

    with serving(cached) as server:

        def side(mode: str, behaviour: Behaviour, database: str) -> Sent:
            return _sent(server, behaviour, scale.folder / database, text(mode))

        _sent(server, cached, scale.folder / "auto.db", text("auto", width=1, questions=2))  # shows that there is one
        off, on, auto = alternately(
            scale.runs,
            lambda _: side("'off'", cached, "off.db"),
            lambda _: side("'on'", cached, "on.db"),
            lambda _: side("auto", cached, "auto.db"),
        )
        without, auto_without = alternately(
            scale.runs, lambda _: side("'off'", uncached, "off.db"), lambda _: side("auto", uncached, "plain.db")
        )
    calls = documents * QUESTIONS
    figures = []
    for name, sides in (("auto, once shown", auto), ("on", on)):
        cold = statistics.median(one.cold for one in sides)
        cost = statistics.median(one.cost for one in sides)
        was = f"of {calls}; unordered {statistics.median(one.cold for one in off):g}"
        figures += [
            Figure(what=f"{name}: cold requests a document", value=cold / documents, bar=1, note=f"{cold:g} {was}"),
            Figure(what=f"{name}: cost of the input", value=cost, bar=0.21),
            _walls(f"{name}: time, of unordered", sides, off, 0.65),
        ]
    return [*figures, _walls("auto on a server without a cache", auto_without, without, 1.02)]


def system(scale: Scale) -> list[Figure]:
    """One long system prompt before every item."""
    items = 200
    behaviour = _server(scale, cache=10_000)
    with serving(behaviour) as server:

        def side(mode: str, number: int) -> Sent:
            text = _SYSTEM.format(width=IN_FLIGHT, mode=mode, items=items, system=document(f"{mode} {number}"))
            return _sent(server, behaviour, scale.folder / f"{mode}.db", text)

        side("'off'", -1)
        off, on = alternately(scale.runs, lambda number: side("'off'", number), lambda number: side("'on'", number))
    cached = statistics.median(one.cached for one in on) * 100
    was = f"unordered {statistics.median(one.cached for one in off):.1%}"
    return [
        Figure(what="tokens from the cache", value=cached, unit="%", bar=96, least=True, note=was),
        _walls("time, of unordered", on, off, None),
    ]


def _walls(what: str, of: list[Sent], to: list[Sent], bar: float | None) -> Figure:
    took, other = [one.took for one in of], [one.took for one in to]
    return Figure(what=what, value=ratio(took, other), bar=bar, note=seconds(took, other))
