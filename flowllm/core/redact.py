"""Secrets are taken out of every text before it is cut, stored, shown or logged."""

from __future__ import annotations

import base64
import html.entities
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from flowllm.core.encoding import EncodedObject
from flowllm.core.types import Json

MASK = "***"
SECRET_NAME: Final = re.compile(r"auth|key|token|secret|cookie|passw|credential", re.IGNORECASE)
"""In the name of a header, a parameter or a variable whose value is secret."""
_PASSWORD: Final = re.compile(r"(?<=://)([^/\s]*?:)([^/\s]*)@")
_CREDENTIAL: Final = re.compile(r"(?=.*[0-9])[A-Za-z0-9_\-.~+/=:]{12,}")
"""Looks like one, by whatever name it is called."""
_PLACEHOLDERS: Final = frozenset(
    re.findall(
        r"\S+",
        "changeme dummy empty fake local lm-studio lmstudio no-key no-key-required none not-needed null ollama "
        "placeholder secret sk-no-key-required test token unused vllm",
    )
)
"""What is given as the key to servers that want none: ordinary words, which no answer may lose."""
SHORTEST = 4
"""Values shorter than this are not masked: they would blot out ordinary text."""
_LONG_PATH: Final = 12
"""Characters of the path and query of a secret URL, which may be as plain as `/v1/items`."""
_DISTINCTIVE: Final = 8
"""Characters from which on another spelling (base64, another case) is surely that of a secret."""
_LINE: Final = 16
"""Characters of a line of a secret of several lines (a PEM key) that may not be seen alone."""
_LONG_WORDS: Final = 12
"""Letters and digits from which on the words of a secret are those of a secret, whatever stands between them."""
_NUMBER: Final = 6
"""Digits of a secret that may not be seen as a number."""
_BYTE: Final = 256
_BLANKS: Final = (
    r"""(?i:(?:['"]?(?:\s|\\{1,8}(?:[tnrfv]|x0[9a-d]|x20|u00(?:0[9a-d]|20))|%(?:25)*(?:0[9a-d]|20)|\+"""
    r"""|&(?:amp;)*\#(?:9|10|11|12|13|32|x[9a-d]|x20);))+['"]?)"""
)
"""A pattern for white space: as it is, wrapped, indented, or written in another way."""
_MOST_DERIVED: Final = 64
"""Texts made of secrets that are learned; more come of a secret in each of many items."""
_LITERAL: Final = re.compile(r"[A-Za-z0-9]+")
_PLAIN: Final = frozenset({str, list, dict})


class _Variant(NamedTuple):
    """One way in which a secret is written."""

    needle: str
    """What stands, in whatever case, in every text that it matches; in lower case."""
    pattern: re.Pattern[str]


class Redactor:
    """Replaces known secret values, wherever they stand and however they are spelled, by `***`.

    One serves a run: what is secret to it may be an ordinary word to another.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: dict[str, tuple[_Variant, ...]] = {}
        self._variants: tuple[_Variant, ...] = ()
        self._derived = 0
        self._shortest = 0
        """Characters of the shortest needle, without which a text has no secret."""
        self._numbers: frozenset[str] = frozenset()
        self._without: dict[int, Mapping[str, Json]] = {}
        """What has no secrets, by its identity."""
        self.longest = 0
        """Characters that the longest variant of a secret may have."""
        self.add(secrets)

    @property
    def is_empty(self) -> bool:
        """There is nothing to mask."""
        return not self._secrets

    def add(self, secrets: Iterable[str]) -> None:
        """Learn more secret values. The longest is replaced first, so that none leaves a tail behind."""
        fresh = {part for secret in secrets for part in _parts(secret)} - self._secrets.keys()
        if not fresh:
            return
        self._secrets |= {secret: tuple(_variants(secret)) for secret in fresh}
        inner = sorted(self._secrets, key=len, reverse=True)
        self._variants = tuple(dict.fromkeys(variant for secret in inner for variant in self._secrets[secret]))
        self._shortest = min(len(variant.needle) for variant in self._variants)
        self._without.clear()
        self._numbers = frozenset(one for one in inner if len(one) >= _NUMBER and one.isdecimal())
        self.longest = 12 * len(inner[0])

    def derive(self, real: Json, shown: Json) -> None:
        """Learn what templates made of secrets: of where a value differs from its twin, which was made of masks, all
        that would be seen as it is, such as the first half of a key."""
        if real == shown or self._derived >= _MOST_DERIVED:
            return
        if isinstance(real, dict) and isinstance(shown, dict):
            for key, value in real.items():
                self.derive(value, shown.get(key))
        elif isinstance(real, list):
            for value, twin in zip_longest(real, shown if isinstance(shown, list) else ()):
                self.derive(value, twin)
        elif not isinstance(real, bool | dict) and real is not None:
            least = _DISTINCTIVE if isinstance(real, str) else _NUMBER
            text = str(real).removesuffix(".0")
            found = {piece for piece in self._unmasked(text, shown) if len(piece) >= least}
            self._derived += len(found)
            self.add(found)

    def _unmasked(self, real: str, shown: Json) -> Iterator[str]:
        """What of a text is neither masked nor in its twin."""
        twin = shown if isinstance(shown, str) else ""
        before = _shared(real, twin)
        behind = _shared(real[before:][::-1], twin[before:][::-1])
        for piece in self.text(real[before : len(real) - behind]).split(MASK):
            if piece.strip() not in twin:
                yield piece.strip()

    def text(self, text: str, mask: str = MASK) -> str:
        """The text with every secret masked."""
        if len(text) < SHORTEST or not self._variants:
            return text
        lowered = text.lower()
        if len(lowered) < self._shortest:
            return text
        for needle, pattern in self._variants:
            if needle in lowered:
                text = pattern.sub(mask, text)
        return text

    def partial(self, text: str, *, lost: str) -> str:
        """A text of which a part was never read, masked; `lost` is "start" or "end".

        Half a secret may stand where it breaks off, which nothing could know: as much as one is long is left out.
        """
        masked = self.text(text)
        return masked[self.longest :] if lost == "start" else masked[: max(0, len(masked) - self.longest)]

    def parts(self, parts: Mapping[str, Json]) -> Mapping[str, Json]:
        """An object with every secret masked, in keys too; what is the same in many of them is looked through once."""
        if not self._secrets:
            return parts
        filling = parts.filling if isinstance(parts, EncodedObject) else None
        if filling is not None and all(self.text(text) == text for text in filling.texts) and self._clean(filling.form):
            return parts
        masked: dict[str, Json] = self.value(dict(parts))
        return masked

    def _clean(self, form: Mapping[str, Json]) -> bool:
        if self._without.get(id(form)) is not form:
            if self.value(form) != form:
                return False
            self._without[id(form)] = form
        return True

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
        return MASK if self._numbers and str(value).removesuffix(".0") in self._numbers else value


def _shared(one: str, other: str) -> int:
    """With how many equal characters both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def is_placeholder(key: str) -> bool:
    """It is no key, but a word that stands for one."""
    return not key or key.lower() in _PLACEHOLDERS


def passwords_of(url: str) -> Iterator[str]:
    """The passwords of the URLs in a text, as they are written and as they are meant."""
    for found in _PASSWORD.finditer(url):
        yield from (found[2], unquote(found[2]))


def without_passwords(url: str) -> str:
    """A text without the passwords of the URLs in it."""
    return _PASSWORD.sub(rf"\1{MASK}@", url)


def looks_secret(value: str) -> bool:
    """It looks like a credential: long, with a digit, of letters that keys have, and not an address."""
    return _CREDENTIAL.fullmatch(value) is not None and "://" not in value


def _parts(secret: str) -> Iterator[str]:
    """The secret, without the line break that files end with; its long lines; of a URL, its path and query."""
    whole = secret.strip()
    lines = [line.strip() for line in whole.splitlines()]
    for part in (whole, *(line for line in lines if len(line) >= _LINE and "-----" not in line)):
        if len(part) >= SHORTEST:
            yield part
    target = whole.partition("://")[2].partition("/")[2]
    if whole.startswith(("http://", "https://")) and len(target) >= _LONG_PATH:
        yield f"/{target}"


def _variants(secret: str) -> Iterator[_Variant]:
    """As it is; as JSON, URLs, HTML, CSV, shells, repr and each of them within another write it; in any case, backwards,
    and with other signs between its words; in base64."""
    distinctive = len(secret) >= _DISTINCTIVE
    yield _variant_of(secret, any_case=distinctive)
    if distinctive:
        yield _variant_of(secret[::-1], any_case=True)
        yield from _of_words(secret)
    for core in _base64(secret.encode(errors="surrogatepass")):
        yield _Variant(core.lower(), re.compile(re.escape(core)))


def _variant_of(text: str, *, any_case: bool) -> _Variant:
    pattern = "".join(_BLANKS if one[0].isspace() else _character(one[0]) for one in _pieces(text))
    return _Variant(_needle(text), re.compile(pattern, re.IGNORECASE if any_case else 0))


def _pieces(text: str) -> list[str]:
    """Its characters; white space in a row is one."""
    return re.findall(r"\s+|\S", text)


def _needle(text: str) -> str:
    return max(_LITERAL.findall(text), key=len, default="").lower()


def _of_words(secret: str) -> Iterator[_Variant]:
    """Its words with other signs between them, as `slug`, `replace`, or `split` and `join` make it."""
    plain = unicodedata.normalize("NFKD", secret.casefold())
    plain = "".join(one for one in plain if not unicodedata.combining(one))
    for text in dict.fromkeys((secret, unicodedata.normalize("NFKC", plain))):
        words = re.findall(r"[^\W_]+", text)
        if (len(words) > 1 or text != secret) and sum(map(len, words)) >= _LONG_WORDS:
            pattern = r"[\W_]{1,8}".join("".join(map(_character, word)) for word in words)
            yield _Variant(_needle(text), re.compile(pattern, re.IGNORECASE))


def _character(character: str) -> str:
    """A pattern for all ways to write a character; letters and digits of ASCII are never written otherwise."""
    if character.isascii() and character.isalnum():
        return character
    forms = dict.fromkeys((character, character.upper(), character.lower(), character.title(), character.casefold()))
    ways = {way for form in forms for way in _written(form)}
    escaped = {_escape(literal) for form in forms for literal in _escapes(form)}
    within_others = rf"\\{{0,8}}(?:{'|'.join(sorted(ways, key=len, reverse=True))})"
    if character in "'\"":  # CSV, SQL and YAML double it, shells close and open again
        within_others = rf"(?:{within_others}|(?:\\{{0,8}}['\"]){{1,5}}?)"
    return f"(?i:{'|'.join([*sorted(escaped, key=len, reverse=True), within_others])})"


def _written(form: str) -> Iterator[str]:
    """Patterns for a character, or what another case makes of it, in texts, URLs and HTML."""
    yield re.escape(form)
    numbers = [ord(one) for one in form]
    percent = quote(form, safe="", errors="replace")
    percent = percent if "%" in percent else "".join(f"%{number:02X}" for number in numbers)
    yield percent.replace("%", "%(?:25)*")  # `quote` leaves - _ . ~ alone
    yield "".join(rf"&(?:amp;)*\#(?:0*{number}|x0*{number:x});" for number in numbers)
    if len(form) == 1 and (name := html.entities.codepoint2name.get(ord(form))) is not None:
        yield f"&(?:amp;)*{name};"


def _escapes(character: str) -> set[str]:
    """As literals of JSON and Python have it that begin with a backslash."""
    literals = {json.dumps(character)[1:-1], ascii(character)[1:-1]}
    numbers = [ord(one) for one in character]
    literals |= {"".join(f"\\u{number:04x}" for number in numbers), "".join(f"\\U{number:08x}" for number in numbers)}
    if max(numbers) < _BYTE:
        literals.add("".join(f"\\x{number:02x}" for number in numbers))
    literals.add(ascii(character.encode(errors="surrogatepass"))[2:-1])
    return {literal for literal in literals if literal.startswith("\\") and literal != "\\\\"}


def _escape(literal: str) -> str:
    """A pattern for an escape, within other literals too, where there are more backslashes before it."""
    return "".join(rf"\\{{1,8}}{re.escape(part)}" for part in literal.split("\\")[1:])


def _base64(secret: bytes) -> Iterator[str]:
    """What of its base64 does not depend on what stands before and behind it, for each place that it can have."""
    whole = [base64.b64encode(secret).decode()] if len(secret) >= _DISTINCTIVE else []
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + secret).decode()
        whole.append(encoded[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6])
    for core in whole:
        if len(core) >= _DISTINCTIVE:
            yield core
            yield core.replace("+", "-").replace("/", "_")
