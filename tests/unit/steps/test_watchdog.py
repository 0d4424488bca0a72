from __future__ import annotations

import asyncio
import threading
import types

from flowllm.steps.python.guards import Watchdog

HERE = __file__.rpartition("/")[0]


def test_what_holds_the_loop_is_told_once_with_its_step_and_line() -> None:
    said: list[str] = []
    heard = threading.Event()

    def tell(message: str) -> None:
        said.append(message)
        heard.set()

    def node_of(frame: types.FrameType) -> str:
        return "posts[3].a" if frame.f_code.co_name == "step" else ""

    async def holding() -> None:
        heard.wait(30)

    async def step() -> None:
        with watchdog.watch(HERE):
            await asyncio.sleep(0)
            await holding()

    async def main() -> None:
        await step()

    watchdog = Watchdog(tell, node_of=node_of, patience=0.05)
    asyncio.run(main())
    watchdog.close()
    (message,) = said
    assert "the python step posts.a has held the event loop" in message
    assert "in holding: heard.wait(30)" in message


def test_a_loop_that_turns_is_let_alone_and_the_thread_ends_with_the_watching() -> None:
    said: list[str] = []

    async def main() -> None:
        watchdog = Watchdog(said.append, node_of=lambda _: "", patience=30)
        for _ in range(3):
            with watchdog.watch(HERE):
                await asyncio.sleep(0)
        watchdog.close()
        thread = watchdog._thread
        assert thread is not None
        await asyncio.to_thread(thread.join, 30)
        assert not thread.is_alive()

    asyncio.run(main())
    assert said == []
