"""What every provider promises, asked of each."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from flowllm.calls.validation import Validator
from flowllm.core.errors import AttemptTimedOut
from flowllm.core.fingerprint import canonical
from flowllm.core.request import OutputFormat
from tests.integration.providers.conftest import Contracted, ask

pytestmark = pytest.mark.anyio

LIST = {"type": "array", "items": {"type": "string"}, "minItems": 2}
OBJECT = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 10}, "why": {"type": ["string", "null"]}},
    "required": ["score", "why"],
    "additionalProperties": False,
}
RECURSIVE = {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}, "maxItems": 3}


async def test_a_whole_answer(contracted: Contracted) -> None:
    completion = await contracted.provider.complete(ask("Write about tea."), timeout=10)
    assert completion.text
    assert completion.model == "test-model"
    assert completion.finish_reason == "stop"
    assert completion.request_id
    assert completion.usage.input_tokens > 0
    assert completion.usage.output_tokens > 0
    assert all(name == name.lower() for name in completion.headers)


async def test_the_body_is_plain_json_and_the_same_every_time(contracted: Contracted) -> None:
    request = ask(temperature=0, max_tokens=5, output=OutputFormat(schema=LIST))
    bodies = [contracted.provider.encode(request) for _ in range(2)]
    assert canonical(bodies[0]) == canonical(bodies[1])
    assert json.loads(canonical(bodies[0])) == bodies[0]
    assert canonical(contracted.provider.encode(ask(temperature=1))) != canonical(contracted.provider.encode(ask()))


@pytest.mark.parametrize("schema", [LIST, OBJECT, RECURSIVE, {"type": "integer"}, {}], ids=str)
async def test_a_schema_is_answered_with_json_that_validates(contracted: Contracted, schema: dict[str, object]) -> None:
    output = OutputFormat(schema=schema)
    completion = await contracted.provider.complete(ask("List two things.", output=output), timeout=10)
    assert Validator(output).verdict(completion.text).error is None


async def test_output_json_is_answered_with_json(contracted: Contracted) -> None:
    completion = await contracted.provider.complete(ask("Tell me.", output=OutputFormat()), timeout=10)
    assert Validator(OutputFormat()).verdict(completion.text).error is None


async def test_the_deadline_is_total(contracted: Contracted) -> None:
    provider = contracted.slow(1.5)
    started = time.monotonic()
    with pytest.raises(AttemptTimedOut, match=r"0\.2 s"):
        await provider.complete(ask(), timeout=0.2)
    assert time.monotonic() - started < 1.4


async def test_many_at_once(contracted: Contracted) -> None:
    asked = [contracted.provider.complete(ask(f"number {number}"), timeout=20) for number in range(50)]
    found = await asyncio.gather(*asked)
    assert len({completion.text for completion in found}) == 50


async def test_a_cancelled_call_stops_and_leaves_the_others_alone(contracted: Contracted) -> None:
    provider = contracted.slow(0.8)
    first, second = (asyncio.create_task(provider.complete(ask(str(n)), timeout=10)) for n in range(2))
    await asyncio.sleep(0.1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).text


async def test_equal_configurations_are_one_account(contracted: Contracted) -> None:
    assert contracted.provider.account == contracted.slow(1).account
    assert contracted.provider.name == "test"
