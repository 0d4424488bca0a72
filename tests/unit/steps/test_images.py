from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from flowllm.core.errors import ImageFailed, TemplateFailed
from flowllm.core.request import IMAGE_TOKENS
from flowllm.core.types import Json, StepId
from flowllm.language.template import ValueTemplate
from flowllm.steps.base import Bound
from flowllm.steps.prompt.runner import PromptRunner
from tests.support.calls import FakeProvider
from tests.support.workflows import workflow

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


class Looker:
    """Binds a step that looks at images in a folder."""

    def __init__(self, folder: Path) -> None:
        self.kind = PromptRunner(lambda _: FakeProvider(), calls=None)
        text = (
            "inputs: {x: {type: array}}\nsteps:\n  a:\n    prompt: Look\n    model: m\n    images: '{{ inputs.x }}'\n"
        )
        step = workflow(text).steps[StepId("a")]
        self.step = replace(step, body=replace(step.body, folder=str(folder)))

    def bind(self, images: Json) -> Bound:
        return self.kind.bind(self.step, {"inputs": {"x": images}})


def test_the_key_is_of_the_content_and_the_record_shows_path_and_hash(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.png").write_bytes(PNG)
    (tmp_path / "c.png").write_bytes(PNG + b"more")
    looker = Looker(tmp_path)
    a, b, c = (looker.bind(path) for path in ("a.png", "sub/b.png", ["c.png"]))
    assert a.key == b.key != c.key
    content = b.parts["body"]["messages"][0]["content"]
    placeholder = {"path": "sub/b.png", "sha256": hashlib.sha256(PNG).hexdigest()}
    assert content == [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": placeholder}]
    (tmp_path / "a.png").write_bytes(PNG + b"changed")
    assert looker.bind("a.png").key not in {a.key, c.key}


def test_addresses_go_as_they_are_and_their_order_counts(tmp_path: Path) -> None:
    looker, one, two = Looker(tmp_path), "https://x.invalid/1.png", "data:image/png;base64,AA=="
    bound = looker.bind([one, two])
    shown = bound.parts["body"]["messages"][0]["content"][1:]
    assert [part["image_url"]["url"] for part in shown] == [one, two]
    assert len({looker.bind(images).key for images in ([one, two], [two, one], [one], [])}) == 4


def test_without_images_the_prompt_is_plain_text(tmp_path: Path) -> None:
    assert Looker(tmp_path).bind([]).parts["body"]["messages"][0]["content"] == "Look"


def test_an_image_is_reckoned_with_before_and_when_it_is_sent(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    looker = Looker(tmp_path)
    without, bound = looker.bind([]), looker.bind(["a.png", "a.png"])
    more = looker.kind.work(bound).input_tokens - looker.kind.work(without).input_tokens
    assert 2 * IMAGE_TOKENS <= more < 2 * IMAGE_TOKENS + 200
    request = bound.work[0].request
    assert 2 * IMAGE_TOKENS < looker.kind._expected(request, looker.step).input_tokens < 2 * IMAGE_TOKENS + 50


@pytest.mark.parametrize("images", [7, None, [1], "", [" "], {"url": "x"}])
def test_what_names_no_image_is_an_error(tmp_path: Path, images: Json) -> None:
    with pytest.raises(TemplateFailed, match="images"):
        Looker(tmp_path).bind(images)


def test_a_missing_file_fails_the_step(tmp_path: Path) -> None:
    with pytest.raises(ImageFailed, match=r"gone\.png"):
        Looker(tmp_path).bind(["gone.png"])


def test_a_provider_goes_by_the_name_that_its_graph_gives_it(tmp_path: Path) -> None:
    asked: list[str] = []
    looker = Looker(tmp_path)
    kind = PromptRunner(lambda name: asked.append(name) or FakeProvider(), calls=None)
    body = replace(looker.step.body, images=None, aliases={"auto": "inner.auto", "openai": "inner.openai"})
    (target,) = workflow("steps: {a: {prompt: x, model: m, fallback: [n]}}").steps[StepId("a")].body.fallback
    own = replace(target, provider=ValueTemplate.of("auto"))
    kind.bind(replace(looker.step, body=replace(body, fallback=(target, own))), {"inputs": {"x": []}})
    assert asked == ["inner.openai", "inner.openai", "inner.auto"]
