"""Everything can be read in both themes, by the formula of WCAG 2.2."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

CSS = files("flowllm.ui").joinpath("static/tokens.css").read_text()
TEXT, GRAPHIC = 4.5, 3.0
GROUNDS = ("bg", "surface", "raised")
STATUSES = ("succeeded", "failed", "running", "waiting", "cancelled", "blocked", "skipped", "cached")


def _tokens(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", block))


LIGHT, DARK, CHOSEN = (_tokens(block) for block in re.split(r"@media|data-theme=\"dark\"", CSS))


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_what_the_system_wants_and_what_was_chosen_look_the_same() -> None:
    assert DARK == CHOSEN
    assert DARK.keys() == LIGHT.keys()


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(theme: dict[str, str]) -> None:
    pairs = [(text, ground, TEXT) for text in ("text", "muted", "accent", *STATUSES) for ground in GROUNDS]
    pairs += [(status, f"{status}-bg", TEXT) for status in STATUSES]
    pairs += [("text", f"{status}-bg", TEXT) for status in STATUSES]
    pairs += [(name, ground, GRAPHIC) for name in theme if name.startswith("wait-") for ground in GROUNDS[:2]]
    pairs += [("accent-text", "accent", TEXT), *(("focus", ground, GRAPHIC) for ground in GROUNDS)]
    found = {(one, other): round(_contrast(theme[one], theme[other]), 2) for one, other, _ in pairs}
    assert not {pair: found[pair[:2]] for pair in pairs if found[pair[:2]] < pair[2]}
