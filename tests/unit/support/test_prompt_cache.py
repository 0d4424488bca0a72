"""The cache of prompts that servers of tests and benchmarks have."""

from __future__ import annotations

from tests.support.prompt_cache import PromptCache, sent_text

TOKEN = "abcd"
SYSTEM = TOKEN * 1024


def test_a_beginning_is_found_in_whole_blocks_and_only_once_it_was_read() -> None:
    cache = PromptCache(rate=1_000.0)
    first = cache.begin(SYSTEM + "one " * 100)
    assert (first.tokens, first.cached, cache.seconds(first)) == (1_124, 0, 1.124)
    assert cache.begin(SYSTEM + "two " * 100).cached == 0, "the first is still being read"
    cache.end(first)
    follower = cache.begin(SYSTEM + "two " * 100)
    assert (follower.cached, cache.seconds(follower)) == (1_024, 0.1)
    assert cache.begin(SYSTEM + "one " * 200).cached == 1_024, "whole blocks alone: 1,124 tokens are equal"
    assert cache.begin("x" + SYSTEM).cached == 0
    assert follower.usage(5)["prompt_tokens_details"] == {"cached_tokens": 1_024}


def test_nothing_is_found_below_the_minimum() -> None:
    cache = PromptCache()
    cache.end(cache.begin(SYSTEM[:-4]))
    assert cache.begin(SYSTEM).cached == 0
    cache.end(cache.begin(SYSTEM))
    assert cache.begin(SYSTEM[:-4] + "more").cached == 0, "seven blocks are equal, and eight are the minimum"


def test_what_was_used_the_longest_ago_is_forgotten_from_its_end() -> None:
    cache = PromptCache(capacity=25)
    for text in ("a" * 4096, "b" * 4096 * 2):
        cache.end(cache.begin(text))
    assert cache.begin("a" * 4096).cached == 1_024
    cache.end(cache.begin("c" * 4096))
    assert cache.begin("a" * 4096).cached == 1_024
    assert cache.begin("b" * 4096 * 2).cached == 1_152, "seven of its 16 blocks made room"
    assert PromptCache(capacity=0).begin("a" * 4096).cached == 0


def test_a_request_is_read_in_the_order_of_the_provider() -> None:
    body = {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}], "tools": [1]}
    assert sent_text(body) == "[1]<system>S<user>U"
    assert sent_text({"instructions": "S", "input": "U"}) == "<developer>S<user>U"
