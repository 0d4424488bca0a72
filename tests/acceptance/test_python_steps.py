"""Functions of the user's, as a user runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.project import Project

KINDS = """
    import collections, enum
    class Mood(str, enum.Enum):
        HAPPY = "happy"
    class Tag(str):
        def __str__(self): return "<tag>"
    def many():
        pair = collections.namedtuple("pair", "a b")(Mood.HAPPY, Tag("t"))
        return {Mood.HAPPY: pair, "big": 2**80, "rows": (n for n in range(2))}
    async def stream():
        yield Mood.HAPPY
    """


def test_a_value_is_the_same_fresh_and_from_the_memo(project: Project) -> None:
    project.write("kinds.py", KINDS)
    steps = {
        "many": {"python": "./kinds.py:many", "cache": True},
        "stream": {"python": "./kinds.py:stream", "cache": True},
        "shown": {"value": "{{ many }} {{ many.happy[0] ~ stream[0] }} {{ many.big + 1 }}"},
    }
    file = project.flow(steps=steps, outputs={"shown": "{{ shown }}", "many": "{{ many }}"})
    fresh, again = project.json("run", file), project.json("run", file)
    assert fresh["outputs"] == again["outputs"]
    assert again["steps"]["many"]["cached"]
    assert fresh["outputs"]["many"] == {"happy": ["happy", "t"], "big": 2**80, "rows": [0, 1]}
    assert fresh["outputs"]["shown"].endswith(f" happyhappy {2**80 + 1}")


def test_two_graphs_with_helpers_of_one_name_and_an_edit_that_changes_the_key(project: Project) -> None:
    for folder in ("p1", "p2"):
        project.write(f"{folder}/tools.py", "import conf\ndef f(): return conf.f()\n")
        project.write(f"{folder}/conf.py", f"def f(): return '{folder}'\n")
        steps = {"a": {"python": "./tools.py:f", "cache": True}}
        project.write(f"{folder}/c.yaml", {"steps": steps, "outputs": {"a": "{{ a }}"}})
    steps = {name: {"workflow": f"./{name}/c.yaml"} for name in ("p1", "p2")}
    file = project.flow(steps=steps, outputs={"both": "{{ p1.a }} {{ p2.a }}"})
    assert project.json("run", file)["outputs"] == {"both": "p1 p2"}
    project.write("p1/conf.py", "def f(): return 'p3'\n")
    edited = project.json("run", file)
    assert edited["outputs"] == {"both": "p3 p2"}
    assert edited["steps"]["p2"]["cached"]


def test_a_traceback_is_in_show_and_in_debug_and_its_innermost_line_in_the_error(project: Project) -> None:
    project.write("tools.py", "import json\nfrom helper import load\ndef f(): return load('{bad')\n")
    project.write("helper.py", "import json\ndef load(text):\n    return json.loads(text)\n")
    file = project.flow(steps={"a": {"python": "./tools.py:f"}})
    plain, debug = project.cli("run", file), project.cli("run", file, "--debug")
    place = "(helper.py:3, in load: return json.loads(text))"
    assert place in plain.err
    assert "Traceback" not in plain.err
    shown = project.cli("show", "last", "a")
    for text in (debug.err, shown.out):
        assert place in text
        assert 'tools.py", line 3, in f' in text
        assert "flowllm_steps" not in text
        assert "/steps/python.py" not in text
    assert project.json("show", "last", "a")["error"]["traceback"].startswith("Traceback")
