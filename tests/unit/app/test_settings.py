from __future__ import annotations

from pathlib import Path

import pytest

from flowllm.app.settings import load_settings, stored_project
from flowllm.core.errors import UsageError
from flowllm.runtime.options import RunOptions


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, two folders below the one of a flowllm.yaml."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "flowllm.yaml").write_text("database: data/runs.db\ndefaults: {model: m}\n")
    monkeypatch.chdir(inner)
    return tmp_path


def test_the_nearest_file_upwards_is_read_and_its_paths_are_relative_to_it(folder: Path) -> None:
    settings = load_settings(environ={})
    assert settings.path == folder / "flowllm.yaml"
    assert settings.database == str(folder / "data" / "runs.db")
    (folder / "a" / "flowllm.yaml").write_text("defaults: {model: other}\n")
    nearer = load_settings(environ={})
    assert (nearer.path, nearer.database) == (folder / "a" / "flowllm.yaml", ".flowllm/flowllm.db")


def test_the_environment_overrides_the_file_and_options_override_both(folder: Path) -> None:
    environ = {"FLOWLLM_DATABASE_URL": "sqlite:///env.db"}
    assert load_settings(environ=environ).database == "sqlite:///env.db"
    assert load_settings(environ=environ, database=folder / "own.db").database == str(folder / "own.db")
    (folder / "flowllm.yaml").write_text("database: sqlite:////srv/x.db\n")
    assert load_settings(environ={}).database == "sqlite:////srv/x.db"


def test_a_named_file_must_be_there(folder: Path) -> None:
    named = folder / "mine.yaml"
    for how in ({"config": named, "environ": {}}, {"environ": {"FLOWLLM_CONFIG": str(named)}}):
        with pytest.raises(UsageError, match="there is no file"):
            load_settings(**how)
    named.write_text("defaults: {model: mine}\n")
    assert load_settings(config=named, environ={"FLOWLLM_CONFIG": "elsewhere"}).path == named


def test_options_are_completed_from_the_environment_where_they_are_silent(folder: Path) -> None:
    environ = {"FLOWLLM_PROVIDER": "simulated", "FLOWLLM_MODEL": "env", "FLOWLLM_MAX_CONCURRENT": "3"}
    settings = load_settings(environ=environ)
    found = settings.complete(RunOptions(model="option"))
    assert (found.provider, found.model, found.max_concurrent) == ("simulated", "option", 3)
    assert found.config == str(folder / "flowllm.yaml")
    silent = load_settings(environ={"FLOWLLM_MODEL": ""}).complete(RunOptions())
    assert (silent.provider, silent.model, silent.max_concurrent) == (None, None, None)


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5"])
def test_a_number_in_the_environment_that_is_none_is_told(folder: Path, number: str) -> None:
    settings = load_settings(environ={"FLOWLLM_MAX_CONCURRENT": number})
    with pytest.raises(UsageError, match="FLOWLLM_MAX_CONCURRENT must be a whole number from 1"):
        settings.complete(RunOptions())


def test_a_run_keeps_the_project_that_it_began_with(folder: Path) -> None:
    path = str(folder / "flowllm.yaml")
    snapshot = {path: "prices: {m: {input: 1, output: 2}}\n"}
    assert stored_project(RunOptions(config=path), snapshot).prices["m"]["output"] == 2
    assert not stored_project(RunOptions(config=path), {}).prices
    assert not stored_project(RunOptions(), snapshot).prices


def test_a_tilde_is_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    (folder / "flowllm.yaml").write_text("database: ~/runs.db\n")
    assert load_settings(environ={}).database == str(folder / "home" / "runs.db")
    (folder / "home").mkdir()
    named = folder / "home" / "mine.yaml"
    named.write_text("database: ~nobody-of-that-name/x.db\n")
    mine = load_settings(environ={"FLOWLLM_CONFIG": "~/mine.yaml"})
    assert (mine.path, mine.database) == (named, str(folder / "home" / "~nobody-of-that-name" / "x.db"))
