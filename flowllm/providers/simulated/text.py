"""Texts of a simulated model: some read like an answer to their prompt, made from its own words, some match a pattern.

Pure, and decided by a seed."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeAlias

from flowllm.core.types import Json

_STOP = frozenset(
    re.findall(
        r"\w+",
        """
        a about above after all an and answer any are article as at be because been before being below
        between blog body both briefly but by can compelling could create describe did do does draft each
        engaging every explain few five following for formal four friendly from further generate get give
        given had has have he headline headlines her here him his how i if in into intro introduction is it
        its just keyword keywords like list make many me more most my no nor not of off on once one only
        opens or other our out outline over own paragraph piece please post posts prompt question return
        same section sections sentence sentences seo she short should single so some such summarise
        summarize summary ten text than that the their them then there these they this those three through
        title titled to too topic two under until up use using very was we were what when where which while
        who whom why will with within word words would write you your
        """,
    )
)
_NUMBERS = dict(
    zip(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
        range(1, 13),
        strict=True,
    )
)
_QUOTED = re.compile(r'["\u201c\u201d\u00ab]([^"\u201c\u201d\u00ab\u00bb\n]{3,160})["\u201c\u201d\u00bb]')
_ABOUT = re.compile(
    r"\b(?:about|on the (?:topic|subject) of|regarding|topic:)\s+([^.?!:;\n\"{}]{3,120})", re.IGNORECASE
)
_WORD = re.compile(r"[^\W_][\w'\u2019-]*")
_BREAK = re.compile(r"[:,;.!?()\u2013\u2014\n]")
_COUNT = re.compile(rf"\b(\d{{1,3}}|{'|'.join(_NUMBERS)})\b", re.IGNORECASE)
_LONGEST_PROMPT = 4000
_MOST_ITEMS = 50
_MOST_TERMS = 8
_SHORT_TERM = 3


class Topic:
    """What a prompt is about: a phrase, and the terms in it."""

    def __init__(self, prompt: str) -> None:
        self.prompt, prompt = prompt, prompt[:_LONGEST_PROMPT]
        found = _QUOTED.search(prompt) or _ABOUT.search(prompt)
        said = found[1] if found else next(filter(_terms, _BREAK.split(prompt)), "")
        # The longest part of `Beyond the Hype: The Rise of Tea` is the one that says what it is about.
        self.phrase = _trimmed(max(_BREAK.split(said), key=len)) or "the question at hand"
        self.terms = _terms(self.phrase)[:_MOST_TERMS] or [self.phrase]

    def term(self, random: Random) -> str:
        """One of its terms."""
        return random.choice(self.terms)


_Kind: TypeAlias = Callable[[Topic, Random], str]
"""Writes an answer of one kind."""


def _trimmed(text: str) -> str:
    """The text from its first word that carries meaning to its last; an article in front stays."""
    kept = [match for match in _WORD.finditer(text) if match[0].lower() not in _STOP]
    if not kept:
        return ""
    before = text[: kept[0].start()].split()
    article = f"{before[-1]} " if before and before[-1].lower() in ("the", "a", "an") else ""
    return article + text[kept[0].start() : kept[-1].end()]


def _terms(text: str) -> list[str]:
    """The runs of words that carry meaning, at most three words each, each run once."""
    runs: list[list[str]] = [[]]
    for match in _WORD.finditer(text):
        if match[0].lower() in _STOP:
            runs.append([])
        elif len(runs[-1]) == _SHORT_TERM:
            runs.append([match[0]])
        else:
            runs[-1].append(match[0])
    return list(dict.fromkeys(" ".join(run) for run in runs if len("".join(run)) > 1))


def write(prompt: str, random: Random) -> str:
    """An answer to a prompt: of the kind that its first words ask for, about what it is about."""
    kind = _kind(_SPECIFIC, prompt) or _kind(_GENERAL, prompt) or _paragraphs
    return kind(Topic(prompt), random)


def wanted_items(prompt: str) -> int | None:
    """How many things the prompt asks for, None if it names no number."""
    return _count(prompt, 0) or None


def _kind(kinds: Sequence[tuple[re.Pattern[str], _Kind]], prompt: str) -> _Kind | None:
    """The kind that is named first, outside of quoted text."""
    bare = _QUOTED.sub("", prompt[:_LONGEST_PROMPT])
    found = [(match.start(), kind) for pattern, kind in kinds if (match := pattern.search(bare))]
    return min(found, key=lambda pair: pair[0])[1] if found else None


def phrase(topic: Topic, random: Random, name: str) -> str:
    """A short text for a property of a JSON answer, by the property's name."""
    name = name.lower()
    if any(hint in name for hint in ("title", "headline", "heading")):
        return _headline(topic, random)
    if any(hint in name for hint in _LONG_TEXTS):
        return _sentences(topic, random, 1)[0]
    return _keyword(topic, random) if any(hint in name for hint in _KEYWORDS) else topic.term(random)


def _headline(topic: Topic, random: Random) -> str:
    subject = _titled(topic.phrase)
    return random.choice(
        (
            f"{subject}: What Changed, and What Comes Next",
            f"Beyond the Hype: {subject}",
            f"{subject}, Explained: Five Shifts Worth Watching",
            f"The Quiet Revolution: {subject}",
            f"{subject}: A Field Guide for the Curious",
            f"What Comes After the First Draft: {subject}",
        )
    )


def _titled(text: str) -> str:
    small = {"a", "an", "and", "at", "by", "for", "in", "of", "on", "or", "the", "to", "with"}
    return " ".join(
        word if index and word.lower() in small else word[:1].upper() + word[1:]
        for index, word in enumerate(text.split())
    )


def _keyword(topic: Topic, random: Random) -> str:
    term = topic.term(random).lower()
    frames = (
        *("{} guide", "{} examples", "future of {}", "{} trends", "best {} tools", "{} for beginners", "how {} works"),
        *("{} explained", "{}", "{} tips", "{} ideas", "why {} matters", "{} in practice", "what is {}"),
    )
    return random.choice(frames).format(term)


def _keywords(topic: Topic, random: Random) -> str:
    count = _count(topic.prompt, 10)
    drawn = [topic.phrase.lower(), *(_keyword(topic, random) for _ in range(20 * count))]
    return ", ".join(list(dict.fromkeys(drawn))[:count])


_OPENINGS = (
    "Not long ago, {phrase} sounded like a footnote; today it shapes how people plan, work and decide.",
    "Ask ten people about {phrase} and you will hear ten different stories.",
    "There is a moment, early on, when {phrase} stops being a buzzword and becomes useful.",
    "Every so often a subject comes along that asks us to look twice, and {phrase} is one of them.",
)
_MIDDLES = (
    "What makes {term} interesting is less the novelty than the habits that grow around it.",
    "The first lesson is a modest one: {term} rewards those who start small and keep notes.",
    "Behind {term} stands a simple trade, a little effort now for a lot of clarity later.",
    "Those who know {term} well tend to agree that context matters more than tools.",
    "Much of what is said about {term} turns out to be about {other} as well.",
    "Seen from close by, {term} is a craft like any other, with its shortcuts and its traps.",
)
_CLOSINGS = (
    "In what follows we look at where it began, what works, and where it may lead.",
    "The pages ahead separate what is known from what is merely repeated.",
    "Let us take it step by step, and see what holds up.",
)


def _filled(template: str, topic: Topic, random: Random) -> str:
    term = topic.term(random)
    others = [item for item in topic.terms if item != term] or ["everyday practice"]
    head, _, tail = topic.phrase.partition(" ")
    inside = f"{head.lower()} {tail}" if head in ("The", "A", "An") else topic.phrase
    text = template.format(phrase=inside, term=term, other=random.choice(others))
    return text[0].upper() + text[1:]


def _sentences(topic: Topic, random: Random, count: int) -> list[str]:
    """That many sentences; a pattern comes back only when all have been used."""
    patterns: list[str] = []
    while len(patterns) < count:
        patterns += random.sample(_MIDDLES, len(_MIDDLES))
    return [_filled(pattern, topic, random) for pattern in patterns[:count]]


def _introduction(topic: Topic, random: Random) -> str:
    first, last = (_filled(random.choice(options), topic, random) for options in (_OPENINGS, _CLOSINGS))
    return " ".join((first, *_sentences(topic, random, 2), last))


_SECTIONS = (
    ("Where It Began", "a short history of {term}, and the question that started it"),
    ("How It Works", "the moving parts of {term} in plain language, with one example"),
    ("What Has Changed", "how {term} and {other} look different from a few years ago"),
    ("In Practice", "three people who use {term}, and what they would do again"),
    ("The Hard Parts", "limits, costs and the mistakes that {term} invites"),
    ("Questions of Trust", "who is responsible when {term} goes wrong"),
    ("What Comes Next", "where {term} may lead, and what to watch for"),
    ("Getting Started", "a first week with {term}, day by day"),
)


def _outline(topic: Topic, random: Random) -> str:
    count = _count(topic.prompt, 5)
    chosen = sorted(random.sample(range(len(_SECTIONS)), min(count, len(_SECTIONS))))
    sections = [_SECTIONS[index] for index in (chosen * count)[:count]]
    return "\n".join(
        f"{number}. {heading}\n   - {_filled(note, topic, random)}\n   - {sentence}"
        for number, ((heading, note), sentence) in enumerate(
            zip(sections, _sentences(topic, random, count), strict=True), start=1
        )
    )


def _listed(topic: Topic, random: Random) -> str:
    found = _sentences(topic, random, _count(topic.prompt, 5))
    return "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(found, start=1))


def _paragraphs(topic: Topic, random: Random) -> str:
    sentences = _sentences(topic, random, 5)
    first = " ".join((_filled(random.choice(_OPENINGS), topic, random), *sentences[:2]))
    one = re.search(r"\b(paragraph|sentence)s?\b", topic.prompt[:_LONGEST_PROMPT], re.IGNORECASE)
    return first if one else f"{first}\n\n{' '.join(sentences[2:])}"


def _summary(topic: Topic, random: Random) -> str:
    return f"In short, this is about {topic.phrase}. {' '.join(_sentences(topic, random, 2))}"


def _judgement(topic: Topic, random: Random) -> str:
    return f"Score: {random.randint(5, 9)} out of 10. {' '.join(_sentences(topic, random, 2))}"


def _poem(topic: Topic, random: Random) -> str:
    return f"{topic.term(random)} at first light,\na question folded in two;\nthe answer keeps still."


def _count(prompt: str, default: int) -> int:
    """The first number of things that the prompt names, up to 50."""
    for match in _COUNT.finditer(prompt):
        number = _NUMBERS.get(match[1].lower()) or int(match[1] if match[1].isdigit() else 0)
        if 1 < number <= _MOST_ITEMS:
            return number
    return default


def _kinds(*pairs: tuple[str, _Kind]) -> Sequence[tuple[re.Pattern[str], _Kind]]:
    return [(re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), kind) for pattern, kind in pairs]


_LONG_TEXTS = ("text", "summary", "body", "reason", "description", "comment", "content", "answer")
_KEYWORDS = ("keyword", "tag", "topic", "value", "item")
_SPECIFIC = _kinds(
    ("headlines?|titles?|taglines?|slogans?|subject lines?", _headline),
    ("keywords?|tags|hashtags|search terms", _keywords),
    ("introduction|intro|opening|lede|hook", _introduction),
    ("outline|table of contents|structure of", _outline),
    ("summar(?:y|ise|ize|ising|izing)|abstract|condense", _summary),
    ("judge|score|rate|grade|evaluate|review|critique", _judgement),
    ("poem|haiku|verse", _poem),
)
_GENERAL = _kinds(
    (r"list|enumerate|name \w+ \w+|ideas|questions|tips|steps", _listed),
    ("explain|describe|paragraphs?|essay|article|conclusion|draft|section", _paragraphs),
)


_PARSER: Json = getattr(re, "_parser", None)
"""Python's own, which has no public name; a Python without it gives no text (rstr reads with it too, without bounds)."""
_EXTRA_REPEATS = 6
_MAX_PARTS = 50_000
"""Parts of a pattern that are written, repeats included."""
_MAX_RANGE = 200
_PRINTABLE = string.ascii_letters + string.digits + " _-.,"
_CLASSES = {
    "CATEGORY_DIGIT": string.digits,
    "CATEGORY_WORD": string.ascii_letters + string.digits + "_",
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_DIGIT": string.ascii_letters,
    "CATEGORY_NOT_WORD": " -.,",
    "CATEGORY_NOT_SPACE": string.ascii_letters + string.digits,
}


class PatternTooLong(Exception):
    """A text for the pattern would be out of proportion."""


def matching(pattern: str, random: Random) -> str:
    """A text in which the pattern is found; the empty text for one that cannot be read. Raises PatternTooLong."""
    try:
        parsed = _PARSER.parse(pattern)
    except (AttributeError, re.error, RecursionError, OverflowError):
        return ""
    return _Writer(random).text(parsed)


class _Writer:
    """Writes out one parsed expression."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._groups: dict[int, str] = {}
        self._parts_left = _MAX_PARTS

    def text(self, parsed: Json) -> str:
        """Text for a sequence of parts."""
        return "".join(self._part(str(kind), value) for kind, value in parsed)

    def _part(self, kind: str, value: Json) -> str:
        self._parts_left -= 1
        if self._parts_left < 0:
            raise PatternTooLong(f"its `pattern` asks for over {_MAX_PARTS:,} characters")
        write: dict[str, Callable[[], str]] = {
            "LITERAL": lambda: chr(value),
            "NOT_LITERAL": lambda: self._random.choice([letter for letter in _PRINTABLE if ord(letter) != value]),
            "ANY": lambda: self._random.choice(string.ascii_lowercase),
            "IN": lambda: self._random.choice(_members(value)),
            **dict.fromkeys(("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"), lambda: self._repeat(*value)),
            "SUBPATTERN": lambda: self._group(value[0], value[-1]),
            "BRANCH": lambda: self.text(self._random.choice(value[1])),
            "GROUPREF": lambda: self._groups.get(value, ""),
            "ATOMIC_GROUP": lambda: self.text(value),
        }
        return write.get(kind, str)()  # anchors and looks ahead write nothing

    def _group(self, number: int, inner: Json) -> str:
        self._groups[number] = written = self.text(inner)
        return written

    def _repeat(self, least: int, most: int, inner: Json) -> str:
        if least > self._parts_left:
            raise PatternTooLong(f"its `pattern` asks for {least:,} repeats, more than a simulated answer has")
        times = self._random.randint(least, min(most, least + _EXTRA_REPEATS))
        return "".join(self.text(inner) for _ in range(times))


def _members(parts: Json) -> list[str]:
    """The characters of a class such as [a-z0-9_]; printable ones for a negated class."""
    found: list[str] = []
    for kind, value in ((str(kind), value) for kind, value in parts):
        if kind == "LITERAL":
            found.append(chr(value))
        elif kind == "RANGE":
            found += map(chr, range(value[0], min(value[1], value[0] + _MAX_RANGE) + 1))
        elif kind == "CATEGORY":
            found += _CLASSES.get(str(value), "")
    if str(parts[0][0]) == "NEGATE":
        found = [letter for letter in _PRINTABLE if letter not in found]
    return found or ["a"]
