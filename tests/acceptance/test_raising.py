"""Whatever a step's function raises is that step's clean failure, told with its type; the run goes on."""

from __future__ import annotations

import pytest

from flowllm.steps.python import runner as python
from tests.support.project import Project

CLASSES = """
    import asyncio


    def saying(error):
        class Odd(Exception):
            def __str__(self):
                raise error
        return Odd


    class NoText(Exception):
        def __str__(self):
            return 42

        def __repr__(self):
            raise RuntimeError


    class ItsOwn(Exception):
        def __str__(self):
            return str(self)


    class Text(str):
        def split(self, *args):
            raise RuntimeError

        def __format__(self, spec):
            raise RuntimeError

        def __len__(self):
            raise RuntimeError


    class OddText(Exception):
        def __str__(self):
            return Text("odd")


    class Hidden(type):
        @property
        def __name__(cls):
            raise RuntimeError


    class Nameless(Exception, metaclass=Hidden):
        pass


    class Classless(Exception):
        @property
        def __class__(self):
            raise RuntimeError


    class Closed(Exception):
        def __getattribute__(self, name):
            raise RuntimeError


    class OddGroup(ExceptionGroup):
        @property
        def exceptions(self):
            raise RuntimeError


    class Base(BaseException):
        def __str__(self):
            raise KeyboardInterrupt


    def nested(depth):
        error = ValueError("innermost")
        for _ in range(depth):
            error = ExceptionGroup("outer", [error])
        return error


    KINDS = {
        **{f"Odd {kind.__name__}": saying(kind) for kind in (RuntimeError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)},
        **{kind.__name__: kind for kind in (NoText, ItsOwn, OddText, Classless, Closed, Base)},
        **{kind.__name__: kind for kind in (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, StopAsyncIteration)},
        "Nameless": Nameless,
        "OddGroup": lambda: OddGroup("g", [ValueError("v")]),
        "ExceptionGroup": lambda: ExceptionGroup("g", [NoText(), nested(400)]),
        "BaseExceptionGroup": lambda: BaseExceptionGroup("g", [KeyboardInterrupt(), Base()]),
        "KeyError": lambda: KeyError(NoText()),
        "ValueError": lambda: ValueError("x" * 5_000_000),
    }


    def plainly(kind):
        raise KINDS[kind]()


    async def soon(kind):
        await asyncio.sleep(0)
        raise KINDS[kind]()


    def kinds():
        return list(KINDS)
    """


def test_whatever_a_function_raises_is_told_by_its_type(project: Project) -> None:
    project.write("odd.py", CLASSES)
    over = {"foreach": "{{ kinds }}", "as": "kind", "with": {"kind": "{{ kind }}"}, "on_error": "continue"}
    over["retry"] = {"max_attempts": 1}
    file = project.flow(
        steps={
            "kinds": {"python": "./odd.py:kinds"},
            "plainly": {"python": "./odd.py:plainly", **over, "max_failed": "100%"},
            "soon": {"python": "./odd.py:soon", **over, "max_failed": "100%"},
        },
        outputs={"plainly": "{{ steps.plainly.rows }}", "soon": "{{ steps.soon.rows }}"},
    )
    outcome = project.cli("run", file, "--json", "--full")
    assert "Traceback" not in outcome.err, outcome.said
    for step in ("plainly", "soon"):
        rows = outcome.json["outputs"][step]
        assert len(rows) == 22
        for row in rows:
            error = row["error"]
            assert error["type"] == "PythonFailed", error
            assert error["message"].startswith(f"{step} raised {row['item'].partition(' ')[0]}"), error
            assert len(error["message"]) < 1_000
            assert error["traceback"].startswith(("Traceback", "  + Exception Group Traceback")), error


def test_a_text_that_never_ends_is_not_waited_for(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python, "LONGEST_DESCRIPTION", 0.05)
    project.write(
        "odd.py",
        """
        import time

        class Slow(Exception):
            def __str__(self):
                while not over:
                    time.sleep(0.01)
                return "late"

        over = []

        async def fails():
            raise Slow

        def end(_):
            over.append(1)
        """,
    )
    steps = {
        "a": {"python": "./odd.py:fails", "retry": {"max_attempts": 1}, "on_error": "continue"},
        "b": {"python": "./odd.py:end", "with": {"_": "{{ steps.a.status }}"}},
    }
    outcome = project.cli("run", project.flow(steps=steps))
    assert outcome.code == 0, outcome.said
    assert "fails raised Slow: <its text cannot be had: it takes over 0.05 s>" in outcome.err
