"""Secrets that are written out in files, where the name of an environment variable belongs. Pure.

They are found by their form (`sk-…`, a password in a URL) in any text, and by the key that they stand under in YAML.
What is found is masked wherever the run's other secrets are, and is no part of the texts that a run keeps.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Mapping as AbstractMapping
from functools import lru_cache
from typing import Final
from urllib.parse import unquote, unquote_plus

from flowllm.core.errors import Problem
from flowllm.core.records import dataclass
from flowllm.core.redact import SECRET_NAME, SHORTEST, Redactor, is_placeholder, looks_secret
from flowllm.language.nodes import Mapping, Node, Scalar, Sequence
from flowllm.language.problems import Location, Problems, SourceError
from flowllm.language.source import parse_yaml

KEPT_OUT: Final = "__REDACTED__"
"""What stands in a text that a run keeps where the file has a secret: valid in YAML, JSON, Python and URLs."""
WRITTEN_OUT: Final = "a secret is written out here"
INSTEAD: Final = (
    "name a variable that holds it: `api_key_env`, ${NAME} in a provider's headers, {{ secrets.NAME }} in a step"
)
_YAML: Final = (".yaml", ".yml", ".json")
_FORMS: Final = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}"
    r"|gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|xox[a-z]-[A-Za-z0-9-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{30,}"
    r"|(?:hf|gsk|npm|r8)_[A-Za-z0-9]{20,}|(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{10,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    r")(?![A-Za-z0-9_-])"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]+?-----END [A-Z ]*PRIVATE KEY-----"
)
"""Keys of OpenAI, Anthropic, GitHub, GitLab, Slack, AWS, Google, Hugging Face, Groq, npm and Stripe; JWT; PEM."""
_BEGINNINGS: Final = (
    *("sk-", "gho_", "ghp_", "ghr_", "ghs_", "ghu_", "github_pat_", "glpat-", "xox", "AKIA", "ASIA", "AIza"),
    *("hf_", "gsk_", "npm_", "r8_", "_live_", "_test_", "eyJ", "-----BEGIN "),
)
"""One of these is in each of them."""
_IN_URL: Final = re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://([^/\s?#\"'<>:@]*)(?::([^\s\"'<>/]*))?@")
_IN_BASE_URL: Final = re.compile(r"://[^:/\s@]*:(?!\d+/)(.+)@")
"""Also where a slash or a blank is within the password, which makes something else of the URL."""
_IN_QUERY: Final = re.compile(r"[?&#;]([\w.-]+)=([^&#\s\"'<>;]+)")
_SAID: Final = re.compile(
    r"(?i)(?:\b(?:bearer|basic)[ \t]+"
    r"|(?:authorization|passw(?:or)?d|passphrase|api[_-]?key|(?:access|private|secret)[_-]?key|secret|[_-]token|\btoken)"
    r"[\"']?[ \t]*[:=]+[ \t]*[\"']?(?:(?:bearer|basic|token)[ \t]+)?)([\w.~+/=:-]{12,})"
    r"|(?<!\S)(?:-u|--user|--proxy-user)[ =]?[\"']?[^\s:\"']+:([^\s\"']+)"
)
"""A credential in a program, a command or a comment."""
_WORDS_SAID: Final = ("bearer", "basic", "authorization", "passw", "passphrase", "key", "secret", "token", "-u")
"""One of these, whatever its case, is in each of them; to look for it takes a tenth of the time."""
_STRONG: Final = re.compile(
    r"(?i)authorization|passw|passphrase|(?:^|[-_])pwd$|secret|api[-_]?key|cookie|credential"
    r"|(?:access|private|signing|encryption|auth)[-_]?key$|(?:^|[-_]|access|auth|bearer)token$"
)
"""The name of a key whose value is nothing but a secret."""
_CERTAIN_NAME: Final = re.compile(
    r"(?i)authorization|passw|passphrase|pwd$|(?:api|access|secret)[-_]?key|client[-_]?secret"
)
"""The same, whatever word it has."""
_HEADER: Final = re.compile(r"([\w-]+)[ \t]*:(.+)")
_NO_VALUE: Final = re.compile(r"(?i)[-_](?:env|file|path|field|type|url|header|name)s?$|^secrets$")
_WORTH_READING: Final = (*SECRET_NAME.pattern.split("|"), "pwd", "://")
"""One of these, whatever its case, is in each text that is worth to be read as YAML."""
_OF_NAME: Final = frozenset({"default", "value", "example"})
"""Keys whose value belongs to the name above."""
_SENT: Final = frozenset({"headers", "query", "env"})
_FILLED_IN: Final = re.compile(r"\$\{\w*\}|\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_SCHEME: Final = re.compile(r"(?i)(?:basic|bearer|token|apikey|api-key|digest|negotiate)(?:\s+|$)")
_EXAMPLE: Final = re.compile(
    rf"(?i)(?:your|my|some|example)[-_ ].*|[x*.…_-]+|<.*>|.*(?:\.\.\.|…).*|true|false|yes|no|string|number|integer|boolean"
    rf"|\$\{{?\w+\}}?|\{{.*\}}|%\(?\w*\)?s|{KEPT_OUT}"
)
_WORD: Final = re.compile(r"[A-Za-z]+")
_LONG: Final = 16
_SURE: Final = 8
_NEAR: Final = 4
"""Lines, from that of a value on, in which it is found as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Literal:
    """A secret that is written out."""

    where: Location
    name: str
    """What it is, such as `headers.Authorization`."""
    value: str

    @property
    def certain(self) -> bool:
        """It is no ordinary word: whatever else says the same is this secret."""
        return len(self.value) >= (_LONG if _WORD.fullmatch(self.value) else _SURE)

    @property
    def spellings(self) -> Iterator[str]:
        """The value, and what is written in it in another way."""
        yield self.value
        yield unquote(self.value)
        yield unquote_plus(self.value)
        try:
            yield base64.b64decode(self.value, validate=True).decode().partition(":")[2]  # of Basic
        except (binascii.Error, ValueError):
            return


@lru_cache(maxsize=64)
def literals_of(text: str, file: str) -> tuple[Literal, ...]:
    """The secrets that a text has, in its order. `file` is the name that places carry."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found: dict[tuple[int, str], Literal] = {}

    def add(where: Location, name: str, value: str) -> None:
        if len(value) >= SHORTEST and not is_placeholder(value) and not _EXAMPLE.fullmatch(value):
            found.setdefault((where.line, value), Literal(where=where, name=name, value=value))

    folded = text.casefold()
    if file.endswith(_YAML) and any(word in folded for word in _WORTH_READING):
        try:
            for where, name, value in _by_name(parse_yaml(text, file), ("", "", "")):
                add(where, name, value)
        except SourceError:
            pass  # it is reported as a problem; its lines are still looked through
    for offset, name, value in _by_form(text, folded):
        add(Location.at(file, text, offset), name, value)
    return tuple(sorted(found.values(), key=lambda one: (one.where.line, one.where.column)))


def masking(texts: AbstractMapping[str, str]) -> Redactor:
    """Masks the secrets that these files, name to text, have written out."""
    return Redactor(spellings_of(texts))


def spellings_of(texts: AbstractMapping[str, str]) -> tuple[str, ...]:
    """The secrets that these files, name to text, have written out, in each way in which they are written."""
    return tuple(value for file, text in texts.items() for one in literals_of(text, file) for value in one.spellings)


def checked(problems: Problems) -> tuple[Problem, ...]:
    """As `problems.check`, without the secrets that the lines of files have."""
    return problems.check(lambda texts: masking(texts).text)


def warn_of_literals(texts: AbstractMapping[str, str], problems: Problems) -> None:
    """Add a warning for each secret that these files, name to text, have written out."""
    for file, text in texts.items():
        for one in literals_of(text, file):
            problems.warn(one.where, f"{WRITTEN_OUT}: {one.name}", INSTEAD)


def kept(texts: AbstractMapping[str, str]) -> dict[str, str]:
    """The texts as a run keeps them, path to text, without the secrets that are written out in them."""
    found = {path: literals_of(text, path) for path, text in texts.items()}
    certain = [value for each in found.values() for one in each if one.certain for value in one.spellings]
    everywhere = Redactor(certain)
    return {
        path: everywhere.text(_without(text, [one for one in found[path] if not one.certain]), KEPT_OUT)
        for path, text in texts.items()
    }


def restored(texts: AbstractMapping[str, str], disk: AbstractMapping[str, str]) -> dict[str, str]:
    """What a run has kept, with the secrets as they are in the files on disk, path to text, where these still have them.

    A line is found again that differs in nothing but the secret, wherever it now stands. KEPT_OUT is left where there
    is none.
    """
    now = kept(disk)
    whole = {}
    for path, text in texts.items():
        if KEPT_OUT not in text or path not in disk:
            whole[path] = text
        elif now[path] == text:
            whole[path] = disk[path]
        else:
            whole[path] = "".join(_lines_again(text, disk[path], now[path]))
    return whole


def missing(texts: AbstractMapping[str, str]) -> list[str]:
    """Where a text still lacks a secret: `flowllm.yaml:5`."""
    return [
        f"{path}:{number}"
        for path, text in texts.items()
        for number, line in enumerate(_lines(text), 1)
        if KEPT_OUT in line
    ]


def _without(text: str, literals: Iterable[Literal]) -> str:
    """The text without these, each looked for in the lines where it stands, and nowhere else."""
    lines = _lines(text)
    for literal in literals:
        one, first = Redactor(literal.spellings), literal.where.line - 1
        for number in range(first, min(first + _NEAR, len(lines))):
            start = literal.where.column - 1 if number == first else 0
            line = lines[number]
            lines[number] = line[:start] + one.text(line[start:], KEPT_OUT)
            if lines[number] != line:
                break
    return "".join(lines)


def _lines_again(text: str, disk: str, now: str) -> Iterator[str]:
    """The lines of a text, those that lack a secret as they are on disk; equal ones in their order."""
    lines, passed = _lines(text), Counter[str]()
    there: dict[str, list[str]] = {}
    for masked, line in zip(_lines(now), _lines(disk), strict=False):
        there.setdefault(masked, []).append(line)
    for line in lines:
        equal = there.get(line, []) if KEPT_OUT in line else []
        if len(set(equal)) == 1:
            yield equal[0]
        elif len(equal) == lines.count(line):
            yield equal[passed[line]]
        else:
            yield line
        passed[line] += 1


def _lines(text: str) -> list[str]:
    """Lines as YAML and editors count them, with their ends."""
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)


# by the key that it stands under


def _by_name(node: Node, names: tuple[str, str, str]) -> Iterator[tuple[Location, str, str]]:
    """Values that are secret by their key; `names` are that key and the two above it."""
    if isinstance(node, Mapping):
        for entry in node.entries:
            yield from _by_name(entry.value, (entry.key, *names[:2]))
    elif isinstance(node, Sequence):
        for item in node.items:
            yield from _by_name(item, names)
    else:
        yield from ((node.where, name, value) for name, value in _of_scalar(node, names))


def _of_scalar(node: Scalar, names: tuple[str, str, str]) -> Iterator[tuple[str, str]]:
    name, above, top = names
    text = node.text
    if name in _OF_NAME and above:
        name, above = above, ""
    elif name == "headers" and (header := _HEADER.match(text)) is not None:  # it should have been a mapping
        above, name, text = name, header[1], header[2]
    sent = above in _SENT
    shown = f"{above}.{name}" if sent else name
    above = "providers" if top == "providers" else above
    for piece in _FILLED_IN.split(text):
        value = _SCHEME.sub("", piece.strip(), count=1).strip()
        if not _is_secret(name, above, value):
            continue
        if "cookie" in name.lower():
            parts = [part.partition("=")[2].strip() for part in value.split(";")]
            yield from ((shown, part) for part in parts if len(part) >= _SURE)
        elif sent or not any(map(str.isspace, value)):
            yield shown, value
    if name in {"base_url", "url"}:
        yield from (("password of a URL", found[1]) for found in _IN_BASE_URL.finditer(node.text))
        for found in _IN_QUERY.finditer(node.text):
            if SECRET_NAME.search(found[1]) and not _FILLED_IN.search(found[2]) and "{{" not in found[2]:
                yield f"{found[1]} of `{name}`", found[2]


def _is_secret(name: str, above: str, value: str) -> bool:
    if above == "headers" or (above == "providers" and not _NO_VALUE.search(name)):
        return SECRET_NAME.search(name) is not None
    if above == "secrets":
        return True  # it is a list of names
    if _NO_VALUE.search(name):
        return name.endswith(("_env", "secrets")) and looks_secret(value) and "_" not in value
    if above in _SENT and SECRET_NAME.search(name) and looks_secret(value):
        return True
    if not _STRONG.search(name) or above in _SENT or _CERTAIN_NAME.search(name):
        return _STRONG.search(name) is not None
    return _WORD.fullmatch(value) is None or len(value) >= _LONG


# by its form


def _by_form(text: str, folded: str) -> Iterator[tuple[int, str, str]]:
    for found in _FORMS.finditer(text) if any(word in text for word in _BEGINNINGS) else ():
        yield found.start(), "key", found[0]
    for found in _IN_URL.finditer(text) if "://" in text else ():
        user, password = found[1], found[2]
        if password:
            yield found.start(2), "password of a URL", password
        elif looks_secret(user):
            yield found.start(1), "user of a URL", user
    for found in _IN_QUERY.finditer(text):
        if _STRONG.search(found[1]) and looks_secret(found[2]):
            yield found.start(2), f"{found[1]} of a URL", found[2]
    for found in _SAID.finditer(text) if any(word in folded for word in _WORDS_SAID) else ():
        if found[2] is not None:
            yield found.start(2), "password", found[2]
        elif looks_secret(found[1]):
            yield found.start(1), "credential", found[1]
