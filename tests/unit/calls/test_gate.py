from __future__ import annotations

import asyncio

import pytest

from flowllm.calls.gate import CallStopped, Gate
from tests.support.virtual import run_virtual


def test_a_wait_ends_with_its_result_or_when_the_gate_shuts() -> None:
    async def main() -> None:
        gate = Gate()
        assert await gate.until_shut(asyncio.sleep(1, "slept")) == "slept"
        asyncio.get_running_loop().call_later(1, gate.shut)
        with pytest.raises(CallStopped):
            await gate.until_shut(asyncio.sleep(50))
        with pytest.raises(CallStopped):
            await gate.until_shut(asyncio.sleep(50))
        assert asyncio.get_running_loop().time() == 2
        assert gate._listeners == {}

    run_virtual(main())


def test_who_is_cancelled_while_waiting_is_cancelled_and_so_is_what_it_waits_for() -> None:
    async def main() -> None:
        gate, ends = Gate(), []

        async def wait() -> None:
            try:
                await asyncio.sleep(50)
            finally:
                ends.append(asyncio.get_running_loop().time())

        task = asyncio.create_task(gate.until_shut(wait()))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert ends == [1]
        assert gate._listeners == {}

    run_virtual(main())


def test_an_error_of_what_is_waited_for_is_raised() -> None:
    async def main() -> None:
        async def fail() -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await Gate().until_shut(fail())

    run_virtual(main())
