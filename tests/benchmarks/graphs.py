"""What a node takes, loading included: files of many `value` steps, which do next to nothing themselves."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

from tests.benchmarks.harness import Figure, Scale, Took, alternately, run


def _chain(steps: int) -> Iterator[str]:
    yield "s0: {value: 0}"
    yield from (f's{number}: {{value: "{{{{ s{number - 1} }}}}"}}' for number in range(1, steps))


def _wide(steps: int) -> Iterator[str]:
    yield from (f's{number}: {{value: "number {number} of {{{{ inputs.n }}}}"}}' for number in range(steps))


def _grid(side: int) -> Iterator[str]:
    """Layers, each step of which needs two of the layer before."""
    yield from (f"s0_{column}: {{value: {column}}}" for column in range(side))
    for layer in range(1, side):
        for column in range(side):
            first, second = (f"s{layer - 1}_{one % side}" for one in (column, column + 1))
            yield f's{layer}_{column}: {{value: "{{{{ {first} }}}}", needs: [{second}]}}'


def _items(_: int) -> Iterator[str]:
    yield 's: {foreach: "{{ range(inputs.n) | list }}", value: {number: "{{ item }}", text: "{{ item }} of many"}}'


def graphs(scale: Scale) -> list[Figure]:
    """A chain, steps side by side, a square of both, and the items of one step."""
    side = scale.of(100, 30)
    wide = scale.of(10_000, 1_000)
    shapes: list[tuple[str, Callable[[int], Iterator[str]], int, int, float | None]] = [
        ("chain of 1,000", _chain, 1_000, 1_000, 300),
        (f"{wide:,} side by side", _wide, wide, wide, 200),
        (f"{side} × {side}, each needing two", _grid, side, side * side, 250),
        (f"{wide:,} items of one step", _items, 0, wide, None),
    ]
    figures = []
    for what, shape, size, nodes, bar in shapes:
        steps = "\n".join(f"  {line}" for line in shape(size))
        text = f"inputs: {{n: {nodes}}}\nsteps:\n{steps}\n"

        def took(_: int, text: str = text) -> Took:
            return run(scale.folder / "graphs.db", text)

        took(0)
        (found,) = alternately(scale.runs, took)
        each = statistics.median(one.seconds for one in found) / nodes * 1e6
        cpu = statistics.median(one.cpu for one in found) / nodes * 1e6
        figures.append(Figure(what=f"{what}: a node", value=each, unit="µs", bar=bar, note=f"{cpu:,.0f} µs of CPU"))
    return figures
