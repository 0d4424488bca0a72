"""Secrets are taken out of every text before it is cut, stored, shown or logged."""

from __future__ import annotations

import base64
import html.entities
import json
import re
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flowllm.types import Json

MASK = "***"
SECRET_NAME: Final = re.compile(r"auth|key|token|secret|cookie|passw|credential", re.IGNORECASE)
"""In the name of a header, a parameter or a variable whose value is secret."""
_PLACEHOLDERS: Final = frozenset(
    [
        "changeme",
        "dummy",
        "empty",
        "fake",
        "local",
        "lm-studio",
        "lmstudio",
        "no-key",
        "no-key-required",
        "none",
        "not-needed",
        "null",
        "ollama",
        "placeholder",
        "secret",
        "sk-no-key-required",
        "test",
        "token",
        "unused",
        "vllm",
    ]
)
"""What is given as the key to servers that want none: ordinary words, which no answer may lose."""
SHORTEST = 4
"""Values shorter than this are not masked: they would blot out ordinary text."""
_TARGET: Final = 12
"""Characters of the path and query of a secret URL, which may be as plain as `/v1/items`."""
_TELLING: Final = 8
"""Characters from which on another spelling (base64, another case) is surely that of a secret."""
_LINE: Final = 16
"""Characters of a line of a secret of several lines (a PEM key) that may not be seen alone."""
_NUMBER: Final = 6
"""Digits of a secret that may not be seen as a number."""
_LITERAL: Final = re.compile(r"[A-Za-z0-9]+")
_PLAIN: Final = frozenset({str, list, dict})


class _Spelling(NamedTuple):
    """One way in which a secret is written."""

    needle: str
    """What stands in every text that it matches."""
    pattern: re.Pattern[str] | None = None
    """None: the needle itself."""


class Redactor:
    """Replaces known secret values, wherever they stand and however they are spelled, by `***`.

    One serves a run: what is secret to it may be an ordinary word to another.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set()
        self._spellings: tuple[_Spelling, ...] = ()
        self._numbers: frozenset[str] = frozenset()
        self._shortest = SHORTEST
        self.longest = 0
        """Characters that the longest spelling of a secret may have."""
        self.add(secrets)

    @property
    def knows_none(self) -> bool:
        """There is nothing to mask."""
        return not self._secrets

    def add(self, secrets: Iterable[str]) -> None:
        """Learn more secret values. The longest is replaced first, so that none leaves a tail behind."""
        fresh = {part for secret in secrets for part in _parts(secret)} - self._secrets
        if not fresh:
            return
        self._secrets |= fresh
        inner = sorted(self._secrets, key=len, reverse=True)
        self._spellings = tuple(
            dict.fromkeys(spelling for secret in inner for spelling in _spellings(secret))
        )
        self._numbers = frozenset(one for one in inner if len(one) >= _NUMBER and one.isdecimal())
        self._shortest = len(inner[-1])
        self.longest = 12 * len(inner[0])

    def text(self, text: str) -> str:
        """The text with every secret masked."""
        if len(text) < self._shortest:
            return text
        for needle, pattern in self._spellings:
            if needle in text:
                text = text.replace(needle, MASK) if pattern is None else pattern.sub(MASK, text)
        return text

    def rest(self, text: str, *, lost: str) -> str:
        """A text of which a part was never read, masked; `lost` is "start" or "end".

        Half a secret may stand where it breaks off, which nothing could know: as much as one is long is left out.
        """
        masked = self.text(text)
        return masked[self.longest :] if lost == "start" else masked[: max(0, len(masked) - self.longest)]

    def value(self, value: Json) -> Json:
        """A JSON value with every secret masked, in keys too, however deep."""
        if not self._secrets:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list):
            if not self._numbers and _PLAIN.isdisjoint(map(type, value)):
                return value  # a vector
            return [self.value(item) for item in value]
        return MASK if self._numbers and str(value) in self._numbers else value


def is_placeholder(key: str) -> bool:
    """It is no key, but a word that stands for one."""
    return not key or key.lower() in _PLACEHOLDERS


def _parts(secret: str) -> Iterator[str]:
    """The secret, without the line break that files end with; its long lines; of a URL, what a server is told of it."""
    whole = secret.strip()
    lines = [line.strip() for line in whole.splitlines()]
    for part in (secret, whole, *(line for line in lines if len(line) >= _LINE and "-----" not in line)):
        if len(part) >= SHORTEST:
            yield part
    target = whole.partition("://")[2].partition("/")[2]
    if whole.startswith(("http://", "https://")) and len(target) >= _TARGET:
        yield f"/{target}"


def _spellings(secret: str) -> Iterator[_Spelling]:
    """As it is; as JSON, URLs, HTML, repr and each of them within another write it; in other cases; in base64."""
    literal = max(_LITERAL.findall(secret), key=len, default="")
    if literal != secret:
        yield _Spelling(literal, re.compile("".join(map(_character, secret))))
    yield _Spelling(secret)
    if len(secret) >= _TELLING:
        yield _Spelling(secret.upper())
        yield _Spelling(secret.lower())
    for core in _base64(secret.encode(errors="surrogatepass")):
        yield _Spelling(core)


def _character(character: str) -> str:
    """A pattern for all ways to write a character; letters and digits of ASCII are never written otherwise."""
    if character.isascii() and character.isalnum():
        return character
    number = ord(character)
    percent = quote(character, safe="", errors="replace")
    percent = percent if "%" in percent else f"%{number:02X}"  # `quote` leaves - _ . ~ alone
    ways = [
        re.escape(character),
        percent.replace("%", "%(?:25)*"),
        rf"&(?:amp;)*\#(?:0*{number}|x0*{number:x});",
    ]
    name = html.entities.codepoint2name.get(number)
    if name is not None:
        ways.append(f"&(?:amp;)*{name};")
    if character == " ":
        ways.append(r"\+")
    written = "|".join(sorted(ways, key=len, reverse=True))
    escaped = sorted(map(_escape, _escapes(character)), key=len, reverse=True)
    within_others = rf"\\{{0,8}}(?:{written})"
    return f"(?i:{'|'.join([*escaped, within_others])})"


def _escapes(character: str) -> set[str]:
    """As literals of JSON and Python have it that begin with a backslash."""
    literals = {json.dumps(character)[1:-1], ascii(character)[1:-1], f"\\u{ord(character):04x}"}
    literals.add(ascii(character.encode(errors="surrogatepass"))[2:-1])
    return {literal for literal in literals if literal.startswith("\\") and literal != "\\\\"}


def _escape(literal: str) -> str:
    """A pattern for an escape, within other literals too, where there are more backslashes before it."""
    return "".join(rf"\\{{1,8}}{re.escape(part)}" for part in literal.split("\\")[1:])


def _base64(secret: bytes) -> Iterator[str]:
    """What of its base64 does not depend on what stands before and behind it, for each place that it can have."""
    whole = [base64.b64encode(secret).decode()] if len(secret) >= _TELLING else []
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + secret).decode()
        whole.append(encoded[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6])
    for core in whole:
        if len(core) >= _TELLING:
            yield core
            yield core.replace("+", "-").replace("/", "_")
