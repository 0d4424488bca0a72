"""Vectors over HTTP and from the simulated provider, and what a server may send instead of them."""

from __future__ import annotations

import base64
import json
import math
from array import array
from typing import Any

import pytest

from flowllm.core.clock import SystemClock
from flowllm.core.errors import (
    BadAnswer,
    PathNotFound,
    RateLimited,
    RequestRejected,
    ServerFailed,
    StepError,
    WrongVectors,
)
from flowllm.core.request import EmbedRequest
from flowllm.providers.simulated.provider import SimulatedConfig, SimulatedProvider, unit_vector
from tests.integration.providers.conftest import MakeOpenAI
from tests.support.replies import FAULTS, Reply
from tests.support.server import Server

pytestmark = pytest.mark.anyio


def texts(*words: str, **params: Any) -> EmbedRequest:
    return EmbedRequest(model="e", texts=words, params=params)


def entry(index: Any, vector: Any) -> dict[str, Any]:
    return {"index": index, "embedding": vector}


async def test_vectors_stand_in_the_order_of_their_texts_whatever_order_they_come_in(
    openai: MakeOpenAI, server: Server
) -> None:
    reply = await openai().embed(texts("tea", "cake", "jam"), timeout=20)
    assert list(reply.vectors) == [unit_vector(word, 8) for word in ("tea", "cake", "jam")]
    assert (reply.model, reply.usage.input_tokens, reply.usage.output_tokens) == ("e", 3, 0)
    assert reply.request_id == "req-1"
    (seen,) = server.requests
    assert seen.path == "/v1/embeddings"
    assert seen.body == {"model": "e", "input": ["tea", "cake", "jam"]}


async def test_what_is_encoded_is_what_is_sent(openai: MakeOpenAI, server: Server) -> None:
    provider, request = openai(), texts("half \ud83d of a pair", dimensions=4, user="me")
    assert len((await provider.embed(request, timeout=20)).vectors[0]) == 4
    assert server.requests[0].body == provider.encode(request)


async def test_base64_is_understood(openai: MakeOpenAI, server: Server) -> None:
    packed = base64.b64encode(array("f", [0.5, -2.0]).tobytes()).decode()
    server.script = lambda body, n: Reply(body={"data": [entry(0, packed)]})
    reply = await openai().embed(texts("x", encoding_format="base64"), timeout=20)
    assert reply.vectors == ([0.5, -2.0],)


async def test_a_server_that_numbers_nothing_is_taken_by_its_order(openai: MakeOpenAI, server: Server) -> None:
    server.script = lambda body, n: Reply(body={"data": [{"embedding": [1]}, {"embedding": [2]}]})
    reply = await openai().embed(texts("a", "b"), timeout=20)
    assert reply.vectors == ([1.0], [2.0])
    assert all(type(number) is float for vector in reply.vectors for number in vector)


UNFIT = {
    "too_few": [entry(0, [1])],
    "too_many": [entry(0, [1]), entry(1, [1]), entry(2, [1])],
    "twice": [entry(0, [1]), entry(0, [1])],
    "out_of_range": [entry(0, [1]), entry(7, [1])],
    "no_number": [entry(0, [1]), entry("1", [1])],
    "true_is_no_index": [entry(0, [1]), entry(True, [1])],
    "null": [entry(0, [1]), entry(1, None)],
    "empty": [entry(0, []), entry(1, [])],
    "text": [entry(0, [1]), entry(1, "no base64!")],
    "texts": [entry(0, ["1"]), entry(1, ["2"])],
    "nulls": [entry(0, [None]), entry(1, [1])],
    "nested": [entry(0, [[1]]), entry(1, [[1]])],
    "bool": [entry(0, [True]), entry(1, [False])],
    "huge": [entry(0, [10**400]), entry(1, [1])],
    "lengths": [entry(0, [1]), entry(1, [1, 2])],
    "no_object": [1, 2],
}


@pytest.mark.parametrize("case", UNFIT)
async def test_vectors_that_do_not_fit_differ_from_other_bad_answers(
    openai: MakeOpenAI, server: Server, case: str
) -> None:
    server.script = lambda body, n: Reply(body={"data": UNFIT[case]})
    with pytest.raises(WrongVectors):
        await openai().embed(texts("a", "b"), timeout=20)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1e999"])
async def test_numbers_are_finite(openai: MakeOpenAI, server: Server, number: str) -> None:
    server.script = lambda body, n: Reply(body=f'{{"data": [{{"index": 0, "embedding": [{number}]}}]}}')
    with pytest.raises(WrongVectors):
        await openai().embed(texts("a"), timeout=20)


async def test_a_server_that_does_not_heed_dimensions_is_an_error(openai: MakeOpenAI, server: Server) -> None:
    server.script = lambda body, n: Reply(body={"data": [entry(0, [1, 2, 3])]})
    with pytest.raises(BadAnswer, match="3 numbers instead of 2") as caught:
        await openai().embed(texts("a", dimensions=2), timeout=20)
    assert not isinstance(caught.value, WrongVectors)  # dividing the batch would not help


EXPECTED = {
    "html": BadAnswer,
    "empty_body": BadAnswer,
    "truncated_json": BadAnswer,
    "deep_json": BadAnswer,
    "huge_integer": BadAnswer,
    "list_body": BadAnswer,
    "no_choices": BadAnswer,
    "error_at_200": BadAnswer,
    "rate_limit_at_200": RateLimited,
    "429": RateLimited,
    "500": ServerFailed,
    "400": RequestRejected,
    "422": RequestRejected,
    "redirect": PathNotFound,
    "huge_answer": BadAnswer,
}


@pytest.mark.parametrize("fault", EXPECTED)
async def test_other_faults_are_those_of_chat_calls(openai: MakeOpenAI, server: Server, fault: str) -> None:
    server.script = lambda body, n: FAULTS[fault]
    with pytest.raises(StepError) as caught:
        await openai().embed(texts("a", "b"), timeout=20)
    assert type(caught.value) is EXPECTED[fault]


async def test_a_secret_that_a_server_echoes_is_in_no_error(openai: MakeOpenAI, server: Server) -> None:
    server.script = lambda body, n: Reply(body={"data": f"your key is {server.requests[-1].headers['authorization']}"})
    provider = openai(api_key="sk-canary-embeddings")
    with pytest.raises(BadAnswer) as caught:
        await provider.embed(texts("a"), timeout=20)
    assert "sk-canary-embeddings" not in json.dumps(caught.value.as_dict())


async def test_simulated_vectors_are_of_length_one_and_depend_on_text_model_seed_and_dimensions() -> None:
    def simulated(seed: int = 0) -> SimulatedProvider:
        return SimulatedProvider(SimulatedConfig(seed=seed), clock=SystemClock())

    (first, second) = (await simulated().embed(texts("a", "b"), timeout=1)).vectors
    assert (await simulated().embed(texts("b"), timeout=1)).vectors == (second,)  # whoever shares its request
    assert math.sqrt(sum(number**2 for number in first)) == pytest.approx(1)
    other_model = EmbedRequest(model="f", texts=("a",))
    others = [
        (await simulated(1).embed(texts("a"), timeout=1)).vectors[0],
        (await simulated().embed(other_model, timeout=1)).vectors[0],
        (await simulated().embed(texts("a", dimensions=4), timeout=1)).vectors[0],
    ]
    assert [len(vector) for vector in (first, *others)] == [16, 16, 16, 4]
    assert len({tuple(vector[:4]) for vector in (first, second, *others)}) == 5


async def test_a_simulated_server_refuses_an_empty_text_and_fails_as_often_as_configured() -> None:
    with pytest.raises(RequestRejected):
        await SimulatedProvider(SimulatedConfig(), clock=SystemClock()).embed(texts("a", ""), timeout=1)
    failing = SimulatedProvider(SimulatedConfig(error_rate=1.0), clock=SystemClock())
    with pytest.raises(ServerFailed):
        await failing.embed(texts("a"), timeout=1)


async def test_embeddings_are_priced_by_their_input(openai: MakeOpenAI) -> None:
    from flowllm.core.types import Usage

    provider = openai(base_url="https://api.openai.com/v1")
    assert provider.cost("text-embedding-3-small", Usage(input_tokens=1_000_000)) == pytest.approx(0.02)
