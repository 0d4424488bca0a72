"""Renderings that take long leave the event loop free."""

from __future__ import annotations

import asyncio
import threading

import pytest

from flowllm.core.errors import TemplateFailed
from flowllm.language import sandbox_limits
from flowllm.language.sandbox_limits import rendered
from tests.support.templates import VALUES, compiled

LONG = "{% for i in range(3000) %}{% endfor %}{{ inputs.topic }}"


async def _what_is_long_goes_on_in_a_thread_and_what_is_short_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_limits, "BRIEF", 1000)
    threads: list[int] = []

    def work(source: str) -> str:
        threads.append(threading.get_ident())
        return compiled(source).text(VALUES)

    here = threading.get_ident()
    assert await rendered(lambda: work("{{ inputs.count }}")) == "3"
    assert threads == [here]
    assert await rendered(lambda: work(LONG)) == VALUES["inputs"]["topic"]
    assert (threads[1], threads[2] != here) == (here, True)


async def _errors_are_those_of_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_limits, "BRIEF", 1000)
    for source in ("{{ inputs.count.x }}", LONG + "{{ inputs.count.x }}"):
        template = compiled(source)
        with pytest.raises(TemplateFailed, match=r"wf\.yaml:1:"):
            await rendered(lambda template=template: template.text(VALUES))


async def _many_short_ones_let_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_limits, "BRIEF", 1000)
    template = compiled("{% for i in range(400) %}{% endfor %}{{ 1 }}")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(other())
    await asyncio.gather(*(rendered(lambda: template.text(VALUES)) for _ in range(30)))
    ticking.cancel()
    assert turns >= 9  # 30 renderings of over 400 operations, 1000 a turn


def test_what_is_long_goes_on_in_a_thread_and_what_is_short_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(_what_is_long_goes_on_in_a_thread_and_what_is_short_does_not(monkeypatch))


def test_errors_are_those_of_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(_errors_are_those_of_the_template(monkeypatch))


def test_many_short_ones_let_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(_many_short_ones_let_others_have_their_turn(monkeypatch))
