"""Every command and every example of the documentation does what the page says.

A block whose first line is `# NAME` is a file of that name, for the blocks after it on the page. In front of a block
may stand `<!-- exit: 1 -->` (that exit code), `<!-- server -->` (it has a server to talk to, in place of a real one)
or `<!-- ci -->` (it installs things or runs the tests: `.ci/run` does that).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flowllm.language.nodes import Mapping
from flowllm.language.parse import Overrides, load_project, load_workflow
from flowllm.language.source import parse_yaml
from tests.support.documentation import PAGES, ROOT
from tests.support.server import running_server
from tests.support.warm import command

_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[a-z]+)(?:: (?P<value>[^\n]*?))? -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_NAMED = re.compile(r"# ([\w./-]+\.(?:yaml|py|json|md|jsonl))\n")
LOCAL_SERVER = "http://127.0.0.1:11434/v1"
KEYS = ("OPENAI_", "FLOWLLM_")
VOLATILE = (
    (re.compile(r"\d{8}-\d{6}-[a-z0-9]{5}"), "RUN"),
    (re.compile(r"\d{4}-\d{2}-\d{2}[ T][\d:.]+Z"), "TIME"),
    (re.compile(r"\b\d+(\.\d+)?(ms|s)\b"), "DURATION"),
    (re.compile(r"\b\d+ of (\d+)"), r"N of \1"),
    (re.compile(r"\b[\d,]+ (tokens|in|out)\b"), r"N \1"),
    (re.compile(r" +"), " "),
)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One fenced block."""

    page: str
    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str | None:
        """The name of the file that it shows."""
        found = _NAMED.match(self.text)
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def examples(page: Path) -> Iterator[Example]:
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        yield Example(
            page=page.name,
            line=text[: found.start("language")].count("\n") + 1,
            language=found["language"],
            text=found["text"],
            marks={found["mark"]: found["value"] or ""} if found["mark"] else {},
        )


def all_examples(*languages: str) -> list[Example]:
    return [one for page in PAGES for one in examples(page) if one.language in languages]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "workflows", tmp_path / "workflows")
    return tmp_path


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with running_server() as server:
        yield server.url


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `flowllm` that need not import all anew each time."""
    return command(tmp_path_factory.mktemp("bin")).parent


def environment(url: str | None, commands: Path | None = None) -> dict[str, str]:
    """No key, and no way out: what is not marked has no server to talk to."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(KEYS)}
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
    path = os.pathsep.join(map(str, filter(None, (commands, Path(sys.executable).parent, kept.get("PATH")))))
    return {**kept, **nowhere, "PATH": path, **({} if url is None else {"OPENAI_BASE_URL": url})}


def commands_of(example: Example) -> list[str]:
    """The commands of a block; those that install are run by CI, in an environment of their own."""
    if example.language == "console":
        return [line[2:] for line in example.text.splitlines() if line.startswith("$ ")]
    joined = example.text.replace("\\\n", "")
    return [joined] if "pip install" not in joined else []


def execute(script: str, folder: Path, url: str | None, commands: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script if url is None else script.replace(LOCAL_SERVER, url)],
        cwd=folder,
        env=environment(url, commands),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def settled(lines: Sequence[str]) -> Counter[str]:
    """Lines without what differs from run to run; concurrent steps may end in any order."""
    text = "\n".join(lines)
    for pattern, instead in VOLATILE:
        text = pattern.sub(instead, text)
    found = [line.strip() for line in text.splitlines()]
    return Counter(line for line in found if line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_work_one_after_the_other(
    page: Path, folder: Path, server_url: str, commands: Path
) -> None:
    for example in examples(page):
        if example.file is not None and example.language in {"yaml", "python", "json", "markdown"}:
            place = folder / example.file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(example.text, encoding="utf-8")
        if example.language not in {"sh", "console"} or "ci" in example.marks:
            continue
        wanted = int(example.marks.get("exit", 0))
        url = server_url if "server" in example.marks else None
        said: list[str] = []
        for script in commands_of(example):
            done = execute(script, folder, url, commands)
            assert done.returncode == wanted, f"{example}: {script}\n{done.stdout}"
            said += done.stdout.splitlines()
        if example.language == "console":
            shown = [line for line in example.text.splitlines() if not line.startswith("$ ")]
            check_output(example, shown, said)


def check_output(example: Example, shown: list[str], said: list[str]) -> None:
    """What the page shows is what was said; after a line `…` stands the part that matters."""
    missing = settled([line for line in shown if line.strip() != "…"]) - settled(said)
    assert not missing, f"{example}: not said: {sorted(missing)}\nbut:\n" + "\n".join(said)
    if "…" not in [line.strip() for line in shown]:
        more = settled(said) - settled(shown)
        assert not more, f"{example}: said, and not shown: {sorted(more)}"


@pytest.mark.parametrize("example", all_examples("yaml"), ids=str)
def test_every_yaml_example_is_right(example: Example, folder: Path) -> None:
    for other in all_examples("python", "json", "markdown", "yaml"):
        if other.page == example.page and other.file is not None:
            place = folder / other.file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(other.text, encoding="utf-8")
    name = folder / (example.file or "example.yaml")
    name.write_text(example.text, encoding="utf-8")
    root = parse_yaml(example.text, str(example))
    if isinstance(root, Mapping) and root.get("steps") is None:
        load_project(name)
    else:
        load_workflow(name, overrides=Overrides(provider="simulated"))


@pytest.mark.parametrize("example", [one for one in all_examples("python") if one.file is None], ids=str)
def test_every_python_example_runs(example: Example, folder: Path) -> None:
    for other in all_examples("python"):
        if other.page == example.page and other.file is not None:
            (folder / other.file).write_text(other.text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", example.text],
        cwd=folder,
        env=environment(None),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{example}\n{done.stderr}"
    assert done.stdout, f"{example}: an example shows something"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path)
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """The addresses that headings get, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_opens_with_the_two_commands() -> None:
    head = (ROOT / "README.md").read_text(encoding="utf-8").split("## ", 1)[0]
    opening = ["pip install . && flowllm run workflows/blog.yaml", "pip install -e '.[test]' && pytest"]
    assert [line for line in head.splitlines() if line.startswith("pip ")] == opening
