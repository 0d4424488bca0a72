"""The reference pages say neither more nor less than the program has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import flowllm
from flowllm.core import errors
from flowllm.language.keys import Keys
from tests.support.documentation import (
    BLOCKS,
    PAGES,
    ROOT,
    SCHEMA,
    TABLES,
    commands,
    made_in,
    options_of,
    renewed,
    schema_text,
    tables,
)
from tests.support.pictures import PICTURES, TO

LANGUAGE = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
LIBRARY = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_made_from_the_program_is_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == renewed(text), "run: python -m tests.support.documentation"


def test_the_text_that_makes_a_new_database_is_up_to_date() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "run: python -m tests.support.documentation"


def test_every_block_stands_on_some_page() -> None:
    placed = [name for page in PAGES for name in made_in(page.read_text(encoding="utf-8"))]
    assert sorted(placed) == sorted(BLOCKS)


def test_every_table_of_keys_is_in_the_language_reference() -> None:
    documented = {table for table, _ in TABLES.values()}
    for table in tables():
        assert table in documented, table.__name__


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.__name__)
def test_every_key_is_in_the_language_reference(table: type[Keys]) -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", LANGUAGE, re.MULTILINE))
    assert set(table.table) <= rows


def test_no_key_in_a_table_is_unknown() -> None:
    known = {key for table in tables() for key in table.table}
    made = "\n".join(re.findall(r"<!-- made: keys of .*?<!-- end -->", LANGUAGE, re.DOTALL))
    assert set(re.findall(r"^\| `(\w+)` \|", made, re.MULTILINE)) <= known


def test_every_key_has_a_meaning() -> None:
    for table in tables():
        for name, key in table.table.items():
            assert key.text, f"{table.__name__}.{name}"


def test_every_command_and_option_is_in_the_command_line_reference() -> None:
    for name, command in commands():
        section = CLI.split(f"<!-- made: command {name} -->", 1)[1].split("<!-- end -->", 1)[0]
        for option in options_of(command):
            assert max(option.opts, key=len) in section, f"{name} {option.opts}"


def test_the_readme_and_pages_name_no_unknown_command() -> None:
    known = {name for name, _ in commands()} | {"failed", "ui"}
    for page in PAGES:
        for name in re.findall(r"\bflowllm ([a-z]+)\b(?= |`|\n)", _code(page.read_text(encoding="utf-8"))):
            assert name in known, f"{page.name}: flowllm {name}"


def _code(text: str) -> str:
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return "\n".join(
        [*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))]
    )


def test_every_option_that_prose_names_exists() -> None:
    known = {"--help", "--version"}
    for _, command in commands():
        known |= {name for param in command.params for name in param.opts}
    for page in (CLI, LANGUAGE, (ROOT / "docs" / "running.md").read_text(encoding="utf-8")):
        for name in re.findall(r"`(?:flowllm[^`]*? )?(--[a-z][a-z-]+)", page):
            assert name in known, name


def test_the_library_page_names_what_the_package_has() -> None:
    imported = re.findall(r"^from flowllm import (.+)$", LIBRARY, re.MULTILINE)
    used = {name.strip() for line in imported for name in line.split(",")}
    assert used <= set(flowllm.__all__)
    for name in re.findall(r"^\| `(\w+)` \|", LIBRARY, re.MULTILINE):
        assert issubclass(getattr(errors, name), errors.FlowLLMError)


def test_no_page_names_a_place_of_one_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(work|tmp|home|root)/", page.read_text(encoding="utf-8")), page.name


def test_the_pictures_that_pages_show_are_those_that_are_made() -> None:
    shown = {name for page in PAGES for name in re.findall(r"pictures/([\w.-]+)", page.read_text(encoding="utf-8"))}
    assert shown == set(PICTURES) == {picture.name for picture in TO.iterdir()}


def test_the_map_names_files_that_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)`", text)
    assert len(named) > 40
    here = ["/" + str(path.relative_to(ROOT)) for top in ("flowllm", "tests") for path in (ROOT / top).rglob("*.py")]
    assert [name for name in named if not any(path.endswith("/" + name) for path in here)] == []


def test_the_map_has_every_package() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for place in sorted((ROOT / "flowllm").iterdir()):
        if place.name.startswith((".", "_")) or place.name == "py.typed":
            continue
        assert f"`{place.name}{'/' if place.is_dir() else ''}`" in text, place.name
