"""Files as rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowllm.core.errors import DataFailed
from flowllm.datasets.base import MAX_ROW
from flowllm.datasets.globs import GlobRows
from tests.support.data import drain, write

pytestmark = pytest.mark.anyio


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    for name in ("b.md", "a.md", "a.txt", "sub/c.md", "sub/deep/d.md", ".hidden.md", ".git/e.md"):
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "docs" / name, f"text of {name}")
    (tmp_path / "docs/sub/loop").symlink_to(tmp_path / "docs")
    (tmp_path / "docs/broken.md").symlink_to("nowhere")
    (tmp_path / "docs/linked.md").symlink_to(tmp_path / "docs/a.txt")
    (tmp_path / "docs/folder.md").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("docs/*.md", ["docs/a.md", "docs/b.md", "docs/linked.md"]),
        ("./docs/[ab].?d", ["docs/a.md", "docs/b.md"]),
        ("docs/**/*.md", ["docs/a.md", "docs/b.md", "docs/linked.md", "docs/sub/c.md", "docs/sub/deep/d.md"]),
        ("docs/sub/**", ["docs/sub/c.md", "docs/sub/deep/d.md"]),
        ("**/d*", ["docs/sub/deep/d.md"]),
        ("docs/*/d*/*", ["docs/sub/deep/d.md"]),
        ("docs/.*.md", ["docs/.hidden.md"]),
        ("docs/.git/*", ["docs/.git/e.md"]),
        ("docs/a.md", ["docs/a.md"]),
        ("docs/sub/../a.*", ["docs/sub/../a.md", "docs/sub/../a.txt"]),
    ],
)
async def test_which_files_match_and_in_which_order(docs: Path, pattern: str, paths: list[str]) -> None:
    assert [row.value["path"] for row in await drain(GlobRows(docs, pattern), most=2)] == paths
    absolute = await drain(GlobRows(docs / "elsewhere", f"{docs}/{pattern.removeprefix('./')}"))
    assert [row.value["path"] for row in absolute] == [f"{docs}/{path}" for path in paths]


async def test_a_file_that_is_no_text_is_a_bad_row_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "1.md", "\ufeffgut")
    write(tmp_path / "2.md", b"caf\xe9")
    write(tmp_path / "3.md", b"text\0zero")
    write(tmp_path / "4.md", b"x" * (MAX_ROW + 1))
    write(tmp_path / "5.md", "Zwölf".encode("utf-16"))
    rows = GlobRows(tmp_path, "*.md")
    first = await rows.take(1)
    assert rows.total == 5
    assert await rows.count_rest() == 4
    found = [*first, *await rows.take(9)]
    assert [row.value for row in found] == [
        {"path": "1.md", "text": "gut"},
        {"path": "2.md", "text": None},
        {"path": "3.md", "text": None},
        {"path": "4.md", "text": None},
        {"path": "5.md", "text": "Zwölf"},
    ]
    assert ["" if row.error is None else row.error.message for row in found] == [
        "",
        "2.md: not UTF-8 text (byte 4)",
        "3.md: no text: it has zero bytes",
        "4.md: over 16 MiB in one file",
        "",
    ]


@pytest.mark.parametrize(
    ("pattern", "hint"), [("docs/*.rst", "relative to the workflow's file"), ("docs/*.{md,txt}", "braces")]
)
async def test_no_match_is_an_error_that_says_where_was_looked(docs: Path, pattern: str, hint: str) -> None:
    with pytest.raises(DataFailed, match="no file matches ") as caught:
        await GlobRows(docs, pattern).take(1)
    assert str(docs) in caught.value.message
    assert hint in caught.value.hint
