from __future__ import annotations

import pytest

from flowllm.functions.errors import LONGEST_TRACEBACK, error_text

FILE = "/users/code/tools.py"


def raised(body: str, clean: object = str) -> object:
    """What is told of what a function raises, whose code is `body`; it stands in the user's folder."""
    code = "def f():\n" + "".join(f"    {line}\n" for line in body.splitlines())
    space: dict = {}
    exec(compile(code, FILE, "exec"), space)
    try:
        space["f"]()
    except BaseException as error:  # noqa: BLE001 - that is what is asked for
        return error_text(error, folder="/users/code/", clean=clean)
    raise AssertionError("it raised nothing")


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("import json\njson.loads('{')", "(tools.py:3, in f)"),
        ("raise ValueError", "ValueError (tools.py:2, in f)"),
        ("def inner(): raise KeyError('k')\ninner()", "KeyError: 'k' (tools.py:2, in inner)"),
        (
            "try: 1/0\nexcept Exception as e: raise ValueError('v') from e",
            "ValueError: v, caused by ZeroDivisionError: division by zero (tools.py:3",
        ),
        ("class E(Exception):\n    def __str__(self): 1/0\nraise E", "E: <its text cannot be had: ZeroDivisionError>"),
        (
            "raise ExceptionGroup('g', [ValueError('a'), KeyError('b')])",
            "ExceptionGroup: g (2 sub-exceptions): ValueError: a; KeyError: 'b'",
        ),
        ("compile('def (', '/users/code/helper.py', 'exec')", "(helper.py:1: def ()"),
    ],
)
def test_the_line_names_the_users_innermost_frame(body: str, line: str) -> None:
    assert line in raised(body).line


def test_the_traceback_is_whole_without_frames_of_flowllm_and_cut_in_its_middle_after_masking() -> None:
    found = raised("import json\njson.loads('{')")
    assert found.traceback.startswith("Traceback")
    assert 'tools.py", line 3' in found.traceback
    assert "decoder.py" in found.traceback
    long = raised("raise ValueError('secret' * 9000)", clean=lambda text: text.replace("secret", "***"))
    assert len(long.traceback) < LONGEST_TRACEBACK + 100
    assert "are left out" in long.traceback
    assert len(long.line) < 500
    assert "secret" not in f"{long}"
