"""What the values of a workflow's keys may be: one reader each.

A reader takes a node and gives the value, or raises Wrong at the very scalar that is at fault. Where a
template may stand, the node itself is given on, to be compiled with its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

from flowllm.core.types import CachePolicy
from flowllm.language.nodes import Mapping, Node, Scalar, Sequence, kind_of
from flowllm.language.problems import Wrong, listing, nearest
from flowllm.language.scalars import parse_duration, parse_share

E = TypeVar("E", bound="StrEnum")

NAME = re.compile(r"[a-z_][a-z0-9_]*")
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PROVIDER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
MARKS = ("{{", "{%", "{#")
LARGEST = 2**53
SMALLEST_RATE = 1e-6


def is_template(text: str) -> bool:
    """The text holds something that Jinja would act on."""
    return any(mark in text for mark in MARKS)


def scalar(node: Node, what: str) -> Scalar:
    """The node, if it is a scalar."""
    if not isinstance(node, Scalar):
        raise Wrong(node.where, f"expected {what}, found {kind_of(node)}")
    return node


def text(node: Node) -> Scalar:
    """A text as written; an unquoted number or word counts as text."""
    found = scalar(node, "a text")
    if not found.text.strip():
        raise Wrong(found.where, "expected a text, found nothing")
    return found


def plain_text(node: Node) -> str:
    """A text as written that is not a template."""
    found = text(node)
    if "{{" in found.text:
        raise Wrong(found.where, "a template cannot stand here", "write the value itself")
    return found.text


def any_text(node: Node) -> str:
    """A text as written, empty or not, whatever is in it."""
    return scalar(node, "a text").text


def written(node: Node) -> Scalar:
    """A text of which nothing may get lost: a comment behind it is an error if it is not quoted."""
    found = text(node)
    if found.comment is not None:
        raise Wrong(found.comment, "YAML takes what follows # as a comment, not as part of the text", "quote the text")
    return found


def prompt(node: Node) -> Scalar | Mapping:
    """A text, or `{file: path}`."""
    if not isinstance(node, Mapping):
        return written(node)
    for key, where in node.keys().items():
        if key != "file":
            raise Wrong(where, f"unknown key `{key}` here", "a prompt is a text or `{file: ./prompt.md}`")
    path = node.get("file")
    if path is None:
        raise Wrong(node.where, "`file` is missing", "a prompt is a text or `{file: ./prompt.md}`")
    plain_text(path)
    return node


def templated_text(node: Node) -> Scalar:
    """A text that may be a template."""
    return text(node)


def number(
    *, minimum: float | None = None, maximum: float | None = None, whole: bool = False, template: bool = False
) -> Callable[[Node], Any]:
    """A reader of numbers within bounds; with `template` a text that is a template passes, as a node."""
    what = "a whole number" if whole else "a number"

    def read(node: Node) -> Any:
        found = scalar(node, what)
        value = found.value
        if template and isinstance(value, str) and is_template(value):
            return found
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            shown = f"`{found.text}`" if value is not None else kind_of(found)
            hint = "take the quotes away" if not found.plain and _reads_as_number(found.text) else ""
            raise Wrong(found.where, f"expected {what}, found {shown}", hint)
        _check_bounds(found, value, minimum, maximum)
        return found if template else value

    return read


def _reads_as_number(text_: str) -> bool:
    return re.fullmatch(r"[-+]?[0-9][0-9_.]*", text_) is not None


def _check_bounds(found: Scalar, value: float, minimum: float | None, maximum: float | None) -> None:
    if minimum is not None and value < minimum:
        raise Wrong(found.where, f"{found.text} is too small: the least is {minimum:g}")
    if value > (LARGEST if maximum is None else maximum):
        most = f"{LARGEST:,}" if maximum is None else f"{maximum:g}"
        raise Wrong(found.where, f"{found.text} is too large: the most is {most}")


def boolean(node: Node) -> bool:
    """A word: true or false."""
    found = scalar(node, "true or false")
    if not isinstance(found.value, bool):
        hint = "take the quotes away" if found.text in {"true", "false"} else ""
        raise Wrong(node.where, f"expected true or false, found {_shown(node)}", hint)
    return found.value


def _shown(node: Node) -> str:
    return f"`{node.text}`" if isinstance(node, Scalar) and node.text else kind_of(node)


def duration(node: Node) -> float:
    """Seconds, more than none."""
    seconds = duration_or_zero(node)
    if seconds <= 0:
        raise Wrong(node.where, "this duration must be longer than nothing")
    return seconds


def duration_or_zero(node: Node) -> float:
    """Seconds."""
    try:
        return parse_duration(scalar(node, "a duration such as 30s").text)
    except ValueError as error:
        raise Wrong(node.where, str(error)) from None


def share(node: Node) -> float:
    """A share, 0 to 1."""
    try:
        return parse_share(scalar(node, "a share such as 5%").text)
    except ValueError as error:
        raise Wrong(node.where, str(error)) from None


def choice(*allowed: str) -> Callable[[Node], str]:
    """A reader of one of several words."""

    def read(node: Node) -> str:
        found = scalar(node, listing(allowed, "or"))
        if found.text not in allowed:
            raise Wrong(found.where, f"expected {listing(allowed, 'or')}, found {_shown(found)}")
        return found.text

    return read


def word_of(enum: type[E]) -> Callable[[Node], E]:
    """A reader of an enumeration's words."""
    read = choice(*(member.value for member in enum))
    return lambda node: enum(read(node))


def name_list(pattern: re.Pattern[str], what: str) -> Callable[[Node], tuple[Scalar, ...]]:
    """A reader of a list of names, each once."""

    def read(node: Node) -> tuple[Scalar, ...]:
        if not isinstance(node, Sequence):
            raise Wrong(node.where, f"expected a list, found {kind_of(node)}", "write [a, b]")
        seen: dict[str, Scalar] = {}
        for item in node.items:
            found = scalar(item, what)
            if not pattern.fullmatch(found.text):
                raise Wrong(found.where, f"{_shown(found)} is not {what}")
            if found.text in seen:
                raise Wrong(found.where, f"`{found.text}` is named twice")
            seen[found.text] = found
        return tuple(seen.values())

    return read


def stop(node: Node) -> Scalar | Sequence:
    """A text, or a list of up to four; each may be a template."""
    if not isinstance(node, Sequence):
        return text(node)
    if not node.items:
        raise Wrong(node.where, "this list is empty")
    for item in node.items:
        if scalar(item, "a text").text == "":
            raise Wrong(item.where, "expected a text, found nothing")
    return node


OWN_OPTIONS = ("model", "messages", "max_tokens", "temperature", "top_p", "seed", "stop")
NOT_PARAMS = {
    "stream": "answers are taken whole; it cannot be set",
    "n": "use `samples` to ask several times",
    "response_format": "use `output`",
}


def params(node: Node) -> Mapping:
    """A mapping of what else the API takes."""
    found = mapping(node)
    for key, where in found.keys().items():
        if key in OWN_OPTIONS:
            raise Wrong(where, f"`{key}` does not belong under `params`", f"it is a key of its own: `{key}: …`")
        if key in NOT_PARAMS:
            raise Wrong(where, f"`{key}` does not belong under `params`", NOT_PARAMS[key])
    return found


def mapping(node: Node) -> Mapping:
    """A mapping of any keys."""
    if not isinstance(node, Mapping):
        raise Wrong(node.where, f"expected a mapping, found {kind_of(node)}", "write {key: value}")
    return node


def arguments(node: Node) -> Mapping:
    """Keyword arguments."""
    found = mapping(node)
    for key, where in found.keys().items():
        if not key.isidentifier():
            raise Wrong(where, f"`{key}` cannot be the name of an argument")
    return found


ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def messages(node: Node) -> Sequence | Scalar:
    """A list of messages in the API's own shape, or one template that gives such a list."""
    if isinstance(node, Scalar) and is_template(node.text):
        return node
    if not isinstance(node, Sequence):
        raise Wrong(
            node.where, f"expected a list of messages, found {kind_of(node)}", "write `- {role: user, content: …}`"
        )
    if not node.items:
        raise Wrong(node.where, "this list is empty", "write `- {role: user, content: …}`")
    for item in node.items:
        if not (isinstance(item, Scalar) and is_template(item.text)):
            _check_message(item)
    return node


def _check_message(node: Node) -> None:
    found = mapping(node)
    keys = found.keys()
    if "role" not in keys:
        raise Wrong(found.where, "`role` is missing", "write {role: user, content: …}")
    if not any(key in keys for key in ("content", "tool_calls", "refusal", "audio", "function_call")):
        raise Wrong(found.where, "`content` is missing", "write {role: user, content: …}")
    role = found.get("role")
    if isinstance(role, Scalar) and not is_template(role.text) and role.text not in ROLES:
        raise Wrong(role.where, f"unknown role {_shown(role)}", nearest(role.text, ROLES))
    content = found.get("content")
    if isinstance(content, Scalar) and content.text:
        written(content)


def fallback(node: Node) -> tuple[tuple[Scalar, Scalar | None], ...]:
    """Targets to ask when the first fails, as (model, provider or None)."""
    if not isinstance(node, Sequence):
        raise Wrong(
            node.where, f"expected a list of models, found {kind_of(node)}", "write [model, {provider: p, model: m}]"
        )
    return tuple(_target(item) for item in node.items)


def _target(node: Node) -> tuple[Scalar, Scalar | None]:
    if isinstance(node, Scalar):
        return text(node), None
    found = mapping(node)
    for key, where in found.keys().items():
        if key not in {"provider", "model"}:
            raise Wrong(where, f"unknown key `{key}` here", nearest(key, ["provider", "model"]))
    model, provider = found.get("model"), found.get("provider")
    if model is None:
        raise Wrong(found.where, "`model` is missing", "write {provider: p, model: m}")
    return text(model), None if provider is None else text(provider)


def output(node: Node) -> Scalar | Mapping:
    """`json`, a JSON Schema, or the path of a schema's file."""
    if isinstance(node, Mapping):
        return node
    if isinstance(node, Sequence) or not node.text or not node.is_text:
        raise Wrong(node.where, f"expected `json`, a JSON Schema or a schema's file, found {_shown(node)}")
    if is_template(node.text):
        raise Wrong(node.where, "`output` cannot be a template")
    return node


def cache(node: Node) -> CachePolicy:
    """What is kept: true, false or {ttl: 7d}."""
    if not isinstance(node, Mapping):
        value = node.value if isinstance(node, Scalar) else None
        if not isinstance(value, bool):
            raise Wrong(node.where, f"expected true, false or {{ttl: 7d}}, found {_shown(node)}")
        return CachePolicy(enabled=value)
    for key, where in node.keys().items():
        if key != "ttl":
            raise Wrong(where, f"unknown key `{key}` in `cache`", "write {ttl: 7d}")
    ttl = node.get("ttl")
    if ttl is None:
        raise Wrong(node.where, "`ttl` is missing", "write {ttl: 7d}")
    return CachePolicy(enabled=True, ttl=duration(ttl))


def headers(node: Node) -> dict[str, str]:
    """Names and values of HTTP headers."""
    result = {}
    for entry in mapping(node).entries:
        if not HEADER_NAME.fullmatch(entry.key):
            raise Wrong(entry.where, f"`{entry.key}` cannot be the name of a header")
        result[entry.key] = any_text(entry.value)
        if re.search(r"[\x00-\x1f\x7f]", result[entry.key]):
            raise Wrong(entry.value.where, "a header's value is one line without control characters")
    return result


def base_url(node: Node) -> str:
    """An http or https address without credentials or fragment; it may have a query, such as `?api-version=…`."""
    value = plain_text(node)
    match = re.fullmatch(r"https?://([^/?#\s]+)(/[^?#\s]*)?(\?[^#\s]*)?", value)
    if not match:
        raise Wrong(node.where, f"`{value}` is not an address", "write it like https://llm.example.com/v1")
    if "@" in match[1]:
        raise Wrong(
            node.where, "the address holds a password", "name the variable that holds the key with `api_key_env`"
        )
    return value.rstrip("/")


def environment_name(node: Node) -> str:
    """The name of an environment variable."""
    value = plain_text(node)
    if not ENVIRONMENT_NAME.fullmatch(value):
        raise Wrong(
            node.where,
            "this is not the name of an environment variable",
            "name the variable that holds the key, never the key itself",
        )
    return value


def anything(node: Node) -> Node:
    """Whatever there is."""
    return node


def items(node: Node) -> tuple[Node, ...]:
    """The items of a list."""
    if not isinstance(node, Sequence):
        raise Wrong(node.where, f"expected a list, found {kind_of(node)}", "write [{key: value}]")
    return node.items


def named(node: Node) -> dict[str, Node]:
    """What stands under the names of things that the file does not define, such as models."""
    found = mapping(node)
    for name, where in found.keys().items():
        if not name.strip():
            raise Wrong(where, "expected a name, found nothing")
        if is_template(name):
            raise Wrong(where, "a template cannot stand here", "write the name itself")
    return {entry.key: entry.value for entry in found.entries}


PRICES = ("input", "output", "cached_input", "cache_write")


def price(node: Node) -> dict[str, float]:
    """US dollars per million tokens, by kind of token."""
    read = number(minimum=0)
    result = {}
    for entry in mapping(node).entries:
        if entry.key not in PRICES:
            raise Wrong(entry.where, f"unknown key `{entry.key}` in a price", nearest(entry.key, PRICES))
        result[entry.key] = float(read(entry.value))
    for key in ("input", "output"):
        if key not in result:
            raise Wrong(node.where, f"`{key}` is missing", "write {input: 0.15, output: 0.60}")
    return result
