"""Images in files: known by content, sent as bytes, and never anything but the file that was meant."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from flowllm.core.errors import ImageFailed
from flowllm.core.request import LARGEST_IMAGE, ChatRequest, data_url, examine
from flowllm.steps.prompt.runner import by_content, illustrated
from tests.integration.providers.conftest import MakeOpenAI
from tests.support.server import Server

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
KINDS = {
    "png": PNG,
    "jpeg": b"\xff\xd8\xff\xe0" + bytes(40),
    "gif": b"GIF89a" + bytes(40),
    "webp": b"RIFF\x10\x00\x00\x00WEBPVP8 " + bytes(40),
}


def asking(folder: Path, *images: str) -> ChatRequest:
    shown = [one if one.startswith("http") else examine(one, str(folder)) for one in images]
    return ChatRequest(
        model="m",
        messages=({"role": "user", "content": illustrated("What is it?", shown)},),
        images=tuple(one for one in shown if not isinstance(one, str)),
    )


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_bytes_are_sent_in_place_of_what_stands_for_them(
    openai: MakeOpenAI, server: Server, tmp_path: Path, api: str
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    url = "http://pictures.invalid/cat.jpg"
    provider, request = openai(api=api), asking(tmp_path, "a.png", url)
    assert base64.b64encode(PNG).decode() not in str(provider.encode(request))
    await provider.complete(request, timeout=20)
    (message,) = server.requests[0].body["input" if api == "responses" else "messages"]
    sent = "data:image/png;base64," + base64.b64encode(PNG).decode()
    if api == "responses":
        assert message["content"] == [
            {"type": "input_text", "text": "What is it?"},
            {"type": "input_image", "image_url": sent},
            {"type": "input_image", "image_url": url},
        ]
    else:
        assert message["content"] == [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": sent}},
            {"type": "image_url", "image_url": {"url": url}},
        ]


async def test_an_image_that_changed_while_it_waited_is_not_sent(
    openai: MakeOpenAI, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    request = asking(tmp_path, "a.png")
    (tmp_path / "a.png").write_bytes(PNG + b"!")
    with pytest.raises(ImageFailed, match=r"a\.png changed"):
        await openai().complete(request, timeout=20)
    assert server.requests == []


async def test_a_message_cannot_make_a_file_be_read(openai: MakeOpenAI, server: Server, tmp_path: Path) -> None:
    """Messages may come from data: only what the step itself named is read."""
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.png").write_bytes(PNG + b"another")
    wanted, other = (examine(name, str(tmp_path)) for name in ("a.png", "b.png"))
    content = illustrated("x", [wanted, other])
    request = ChatRequest(model="m", messages=({"role": "user", "content": content},), images=(wanted,))
    await openai().complete(request, timeout=20)
    sent = [part["image_url"] for part in server.requests[0].body["messages"][0]["content"][1:]]
    assert sent[0]["url"].startswith("data:image/png")
    assert sent[1] == other.placeholder


@pytest.mark.parametrize("kind", KINDS)
def test_its_type_is_known_by_its_bytes(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.txt").write_bytes(KINDS[kind])
    assert data_url(examine("x.txt", str(tmp_path))).startswith(f"data:image/{kind};base64,")


def test_what_cannot_be_sent_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "big.png").write_bytes(PNG)
    os.truncate(tmp_path / "big.png", LARGEST_IMAGE + 1)
    os.mkfifo(tmp_path / "pipe.png")
    told = {
        "note.png": "not an image",
        "empty.png": "not an image",
        "folder.png": "folder|regular",
        "big.png": "larger than 20 MB",
        "pipe.png": "regular",
        "gone.png": "No such file",
        "nul\0.png": "null (byte|character)",
    }
    for name, words in told.items():
        with pytest.raises(ImageFailed, match=words) as error:
            examine(name, str(tmp_path))
        assert name in error.value.message


def test_the_same_image_elsewhere_is_the_same_request(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(PNG)
    bodies = []
    for name in ("a.png", "b.png"):
        image = examine(name, str(tmp_path))
        bodies.append((illustrated("x", [image]), [image]))
    assert bodies[0][0] != bodies[1][0]
    assert by_content(*bodies[0]) == by_content(*bodies[1])
