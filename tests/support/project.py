"""A user's folder: workflow files, a database, and the command line, as a process or inside of the test."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flowllm.cli.main import cli
from flowllm.storage.sql.engine import Engine
from flowllm.storage.sqlite.engine import at
from tests.support.warm import LARGEST_FILE, Forked

if TYPE_CHECKING:
    Process = subprocess.Popen[str] | Forked

ROOT = Path(__file__).resolve().parents[2]
HANG = 60.0
"""Seconds after which a test counts as hung; nothing is measured against it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def said(self) -> str:
        """For the message of a failed assertion."""
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Project:
    """A folder with a database of its own, whose `openai` provider is a server of the test's."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.folder = folder
        self.database = folder / ".flowllm" / "flowllm.db"
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self.environ = {**kept, "PYTHONPATH": str(ROOT)}
        self.server: str | None = None
        """The address of a PostgreSQL database that stands in for the file."""
        if url is not None:
            self.environ["OPENAI_BASE_URL"] = url

    def use(self, server: str) -> None:
        """A database on a server."""
        self.server = self.environ["FLOWLLM_DATABASE_URL"] = server

    def write(self, name: str, content: str | Mapping[str, Any]) -> Path:
        """A file; a mapping becomes YAML."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = textwrap.dedent(content) if isinstance(content, str) else as_yaml(content)
        path.write_text(text, encoding="utf-8")
        return path

    def flow(self, *, name: str = "flow.yaml", **top: Any) -> str:
        """Write a workflow by its top-level keys; its file's name."""
        whole = {"name": "flow", "defaults": {"model": "test-model", "retry": QUICK}, **top}
        self.write(name, whole)
        return name

    # the command as a process

    def run(
        self, *words: object, largest_file: int | None = None, humble: bool = False, anew: bool = False, **environ: str
    ) -> Outcome:
        """`python -m flowllm …` to its end."""
        return self.finish(self.start(*words, largest_file=largest_file, humble=humble, anew=anew, **environ))

    def start(
        self, *words: object, largest_file: int | None = None, humble: bool = False, anew: bool = False, **environ: str
    ) -> Process:
        """`python -m flowllm …`, left running.

        `largest_file` in bytes stands for a disk that fills up. `humble` gives up root's right to write
        everywhere, where the tests are root's. `anew` starts an interpreter for it, where that matters.
        """
        if largest_file is not None:
            environ[LARGEST_FILE] = str(largest_file)
        if not (anew or humble) and not any(name.startswith(_ANEW) for name in environ):
            return Forked([*map(str, words)], cwd=self.folder, env={**self.environ, **environ})
        drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        return subprocess.Popen(
            [*(drop if humble and os.geteuid() == 0 else ()), sys.executable, "-m", "flowllm", *map(str, words)],
            cwd=self.folder,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def finish(self, process: Process) -> Outcome:
        """Wait for its end; one that hangs is killed and fails the test."""
        try:
            out, err = process.communicate(timeout=HANG)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"it hangs\n--- stdout\n{out}\n--- stderr\n{err}") from None
        return Outcome(code=process.returncode, out=out, err=err)

    # the command inside of this process: the same code, without a second to start

    def cli(self, *words: object, **environ: str) -> Outcome:
        """The command line, called here."""
        out, err, code = io.StringIO(), io.StringIO(), -1
        with self._inside(environ), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main([*map(str, words)], prog_name="flowllm")
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else 1
        return Outcome(code=code, out=out.getvalue(), err=err.getvalue())

    def json(self, *words: object, code: int = 0, **environ: str) -> Any:
        """What `… --json` prints, called here; it must end with that exit code."""
        outcome = self.cli(*words, "--json", **environ)
        assert outcome.code == code, outcome.said
        return outcome.json

    @contextlib.contextmanager
    def _inside(self, environ: Mapping[str, str]) -> Iterator[None]:
        before, folder = dict(os.environ), Path.cwd()
        os.environ.clear()
        os.environ.update({**self.environ, **environ})
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
            os.chdir(folder)

    # what is on disk

    @property
    def engine(self) -> Engine:
        """Its database, which must be there."""
        return at(self.database)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the database behind flowllm's back."""
        if self.server is not None:
            from tests.support.postgres import ask

            return ask(self.server, query, *values)
        with contextlib.closing(sqlite3.connect(self.database, timeout=HANG)) as connection:
            return connection.execute(query, values).fetchall()

    def run_ids(self) -> list[str]:
        """Oldest first."""
        if self.server is None and not self.database.exists():
            return []
        with contextlib.suppress(sqlite3.OperationalError):
            return [row[0] for row in self.rows("SELECT run_id FROM runs ORDER BY seq")]
        return []


_ANEW = ("PYTHON", "LC_", "LANG")
"""Variables that an interpreter reads as it starts."""

QUICK = {"initial_delay": "10ms", "max_delay": "20ms", "hedge": "off"}
"""A retry policy that does not keep a test waiting, and sends nothing twice because this machine is slow."""


def as_yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=1000)


def prompts(**texts: str) -> dict[str, dict[str, str]]:
    """Steps of one prompt each."""
    return {name: {"prompt": text} for name, text in texts.items()}


def until(true: Callable[[], object], what: str = "it", *, of: Process | None = None) -> None:
    """Wait until something holds, which the process `of` is to bring about.

    The deadline is a guard against hanging only."""
    deadline = time.monotonic() + HANG
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        assert of is None or of.poll() is None or true(), f"the process ended, and not with {what}"
        time.sleep(0.005)


@contextlib.contextmanager
def killed_at_exit(*processes: Process) -> Iterator[None]:
    """No process outlives its test."""
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()
