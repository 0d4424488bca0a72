from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowllm.core.errors import InvalidWorkflow
from flowllm.core.types import CachePolicy, Limits, OnError, OnTruncated, Priority, RetryPolicy, StepKind, Tolerance
from flowllm.language.parse import SnapshotFiles, check, load_workflow
from flowllm.language.workflow import LlmBody, PythonBody, Step, ValueBody
from tests.support.workflows import problems, workflow

VALID = Path(__file__).parents[2] / "corpus" / "valid"
VALUES = {"inputs": {"x": "in"}, "steps": {}, "run": {}, "secrets": {}}


def step(body: str, *, top: str = "defaults: {model: m}", **files: str) -> Step:
    text = f"{top}\ninputs: {{x: 1}}\nsteps:\n  other: {{value: 1}}\n  a: {body}\n"
    return workflow(text, files=files).steps["a"]


def llm(body: str, *, top: str = "defaults: {model: m}") -> LlmBody:
    found = step(body, top=top).body
    assert isinstance(found, LlmBody)
    return found


def messages_of(text: str, **files: str) -> list[str]:
    return [problem.message for problem in problems(text, files=files)]


def test_the_example_of_the_language() -> None:
    blog = load_workflow(VALID / "blog.yaml")
    assert blog.name == "blog"
    assert blog.path == str(VALID / "blog.yaml")
    assert list(blog.steps) == ["headline", "keywords", "intro", "outline"]
    assert blog.steps["outline"].edges == {"headline": Tolerance.REQUIRED, "intro": Tolerance.REQUIRED}
    assert blog.default_provider == "auto"
    assert blog.limits == Limits(max_concurrent=10, requests_per_minute=500, tokens_per_minute=200_000)
    assert list(blog.outputs) == ["headline", "keywords"]
    assert blog.outputs["keywords"].edges == {"keywords": Tolerance.REQUIRED}
    assert set(blog.providers) == {"openai", "simulated"}
    body = blog.steps["keywords"].body
    assert isinstance(body, LlmBody)
    assert body.output is not None
    assert body.output.schema == {"type": "array", "items": {"type": "string"}}
    assert body.params is not None
    assert body.params.render(VALUES) == {"max_tokens": 1000}


def test_what_a_step_is_without_options() -> None:
    found = step("{prompt: hi}")
    assert (found.kind, found.edges, found.when, found.timeout) == (StepKind.PROMPT, {}, None, 1800.0)
    assert (found.retry, found.cache) == (RetryPolicy(), CachePolicy(enabled=True))
    assert (found.priority, found.on_error) == (Priority.NORMAL, OnError.FAIL)
    assert str(found.where) == "/flows/f.yaml:5:3"
    body = llm("{prompt: hi}")
    assert body.provider.render(VALUES) == "openai"
    assert body.model.render(VALUES) == "m"
    assert (body.params, body.output, body.sample, body.samples, body.fallback) == (None, None, None, None, ())


def test_options_are_read() -> None:
    found = step(
        "{prompt: hi, when: '{{ inputs.x == 1 }}', timeout: 90s, cache: {ttl: 7d}, priority: low, on_error: continue, "
        "retry: {max_attempts: 2, initial_delay: 500ms, max_delay: 1m, multiplier: 3, jitter: none, attempt_timeout: 1h, hedge: 30s}}"
    )
    assert found.timeout == 90
    assert found.cache == CachePolicy(enabled=True, ttl=7 * 86400)
    assert (found.priority, found.on_error) == (Priority.LOW, OnError.CONTINUE)
    assert found.retry == RetryPolicy(
        max_attempts=2, initial_delay=0.5, max_delay=60, multiplier=3, jitter=False, attempt_timeout=3600, hedge=30
    )
    assert found.when is not None
    assert found.when.condition({**VALUES, "inputs": {"x": 1}}) is True


@pytest.mark.parametrize(
    ("body", "kind", "enabled"),
    [
        ("{prompt: hi}", StepKind.PROMPT, True),
        ("{messages: [{role: user, content: hi}]}", StepKind.PROMPT, True),
        ("{python: 'json:dumps'}", StepKind.PYTHON, False),
        ("{value: 1}", StepKind.VALUE, False),
        ("{value: 1, cache: true}", StepKind.VALUE, True),
        ("{prompt: hi, cache: false}", StepKind.PROMPT, False),
    ],
)
def test_only_models_answers_are_cached_by_default(body: str, kind: StepKind, enabled: bool) -> None:
    found = step(body)
    assert (found.kind, found.cache.enabled) == (kind, enabled)


def test_text_fields_are_as_written() -> None:
    body = llm("{prompt: 012, system: 1.10, model: 3.50, stop: [no, 1.0]}")
    assert body.prompt is not None
    assert body.system is not None
    assert (body.prompt.text(VALUES), body.system.text(VALUES)) == ("012", "1.10")
    assert body.model.render(VALUES) == "3.50"
    assert body.params is not None
    assert body.params.render(VALUES) == {"stop": ["no", "1.0"]}


def test_values_keep_their_types() -> None:
    body = step("{value: {a: 1.10, b: no, c: true, d: null, e: ['{{ inputs.x }}', 2026-11-21], f: '1'}}").body
    assert isinstance(body, ValueBody)
    assert body.value.render(VALUES) == {"a": 1.1, "b": "no", "c": True, "d": None, "e": ["in", "2026-11-21"], "f": "1"}


def test_llm_options_may_be_templates() -> None:
    body = llm(
        "{prompt: hi, temperature: '{{ inputs.x }}', max_tokens: '{{ 2 }}', sample: '{{ 3 }}', model: 'm-{{ inputs.x }}', "
        "provider: '{{ inputs.x }}', params: {deep: ['{{ inputs.x }}']}, fallback: [big, {provider: openai, model: '{{ inputs.x }}'}]}"
    )
    assert body.params is not None
    assert body.params.render(VALUES) == {"max_tokens": 2, "temperature": "in", "deep": ["in"]}
    assert body.sample is not None
    assert body.sample.render(VALUES) == 3
    assert (body.model.render(VALUES), body.provider.render(VALUES)) == ("m-in", "in")
    assert [(t.model.render(VALUES), t.provider and t.provider.render(VALUES)) for t in body.fallback] == [
        ("big", None),
        ("in", "openai"),
    ]


def test_messages_are_the_apis_own() -> None:
    body = llm(
        "{messages: [{role: system, content: 012}, {role: user, content: [{type: text, text: '{{ inputs.x }}'}]}, "
        "{role: assistant, content: null, tool_calls: []}]}"
    )
    assert body.prompt is None
    assert body.messages is not None
    assert body.messages.render(VALUES) == [
        {"role": "system", "content": "012"},
        {"role": "user", "content": [{"type": "text", "text": "in"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
    ]


def test_defaults_hold_for_every_llm_step_and_give_way_to_the_steps_own() -> None:
    top = (
        "defaults: {model: m, temperature: 0.2, max_tokens: 10, timeout: 1m, cache: false, priority: high, "
        "on_error: continue, on_truncated: fail, samples: 2, output: json, retry: {max_attempts: 2, max_delay: 9s}, "
        "params: {effort: low, k: 1}}"
    )
    found = step("{prompt: hi}", top=top)
    body = llm("{prompt: hi}", top=top)
    assert (found.timeout, found.cache.enabled, found.priority) == (60, False, Priority.HIGH)
    assert found.on_error is OnError.CONTINUE
    assert (body.on_truncated, body.samples) == (OnTruncated.FAIL, 2)
    assert body.output is not None
    assert body.output.schema is None
    own = step("{prompt: hi, temperature: 0, retry: {max_attempts: 7}, params: {k: 2}, cache: true}", top=top)
    assert own.cache.enabled
    assert (own.retry.max_attempts, own.retry.max_delay) == (7, 9)
    assert isinstance(own.body, LlmBody)
    assert own.body.params is not None
    assert own.body.params.render(VALUES) == {"temperature": 0, "max_tokens": 10, "effort": "low", "k": 2}
    value = step("{value: 1}", top=top)
    assert (value.timeout, value.priority, value.on_error) == (1800, Priority.NORMAL, OnError.FAIL)


def test_needs_is_required_only_where_no_reference_shows_the_edge() -> None:
    text = """
        defaults: {model: m}
        steps:
          a: {value: 1}
          b: {value: 2}
          c: {prompt: "{{ a | default('none') }}", needs: [a, b]}
          d: {prompt: "{{ steps.a.status }}"}
          e: {prompt: "{{ steps.a.status }} {{ a | default('') }}", system: "{{ a }}"}
    """
    steps = workflow(text).steps
    assert steps["c"].edges == {"a": Tolerance.OPTIONAL, "b": Tolerance.REQUIRED}
    assert steps["d"].edges == {"a": Tolerance.ANY}
    assert steps["e"].edges == {"a": Tolerance.REQUIRED}


def test_references_anywhere_in_a_step_make_edges() -> None:
    bodies = {
        "prompt": "{prompt: '{{ other }}'}",
        "system": "{prompt: hi, system: '{{ other }}'}",
        "when": "{value: 1, when: '{{ other == 1 }}'}",
        "model": "{prompt: hi, model: '{{ other }}'}",
        "provider": "{prompt: hi, provider: '{{ other }}'}",
        "params": "{prompt: hi, params: {a: [{b: '{{ other }}'}]}}",
        "temperature": "{prompt: hi, temperature: '{{ other }}'}",
        "stop": "{prompt: hi, stop: ['{{ other }}']}",
        "sample": "{prompt: hi, sample: '{{ other }}'}",
        "fallback": "{prompt: hi, fallback: ['{{ other }}']}",
        "messages": "{messages: [{role: user, content: '{{ other }}'}]}",
        "with": "{python: 'm:f', with: {a: {b: '{{ other }}'}}}",
        "value": "{value: ['{{ other }}']}",
    }
    assert {name: dict(step(body).edges) for name, body in bodies.items()} == {
        name: {"other": Tolerance.REQUIRED} for name in bodies
    }


def test_a_prompts_file_is_a_template_with_places_of_its_own() -> None:
    text = """
        defaults: {model: m}
        steps:
          a: {prompt: {file: ./p/judge.md}, system: {file: p/system.md}}
    """
    files = {"p/judge.md": "Line one\r\nuse {{ nothing }}\r\n", "p/system.md": "\ufeffbe kind"}
    found = problems(text, files=files)
    assert [(p.file, p.line, p.column, p.step) for p in found] == [("/flows/p/judge.md", 2, 8, "a")]
    assert found[0].source_line == "use {{ nothing }}"
    loaded = workflow(text, files={**files, "p/judge.md": "fine\n"})
    assert set(loaded.files) == {"/flows/f.yaml", "/flows/p/judge.md", "/flows/p/system.md"}
    body = loaded.steps["a"].body
    assert isinstance(body, LlmBody)
    assert body.prompt is not None
    assert body.prompt.text(VALUES) == "fine"


def test_a_snapshot_loads_again_without_the_disk() -> None:
    first = load_workflow(VALID / "everything.yaml")
    again = load_workflow(first.path, files=SnapshotFiles(first.files))
    assert again.files == first.files
    assert list(again.steps) == list(first.steps)
    assert again.steps["tool"].edges == first.steps["tool"].edges
    assert again.providers == first.providers
    with pytest.raises(InvalidWorkflow, match="not in the run's snapshot"):
        load_workflow(first.path, files=SnapshotFiles({first.path: first.files[first.path]}))


def test_the_place_of_a_file_is_named_as_the_user_named_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "f.yaml").write_text("steps:\n  a: {prompt: {file: ../p.md}, model: m}\n")
    (tmp_path / "p.md").write_text("{{ x }}")
    monkeypatch.chdir(tmp_path)
    assert [problem.file for problem in check("flows/f.yaml")] == ["p.md"]
    assert [problem.file for problem in check(tmp_path / "flows" / "f.yaml")] == [str(tmp_path / "p.md")]


def test_python_files_are_parsed_not_run() -> None:
    source = (
        "import os\nos._exit(3)\nasync def go(): ...\nfrom x import there\ntry:\n    def maybe(): ...\nexcept E: pass\n"
    )
    for function in ("go", "there", "maybe"):
        body = step(f"{{python: './t.py:{function}', with: {{a: 1}}}}", **{"t.py": source}).body
        assert isinstance(body, PythonBody)
        assert (body.file, body.module, body.function) == ("/flows/t.py", None, function)
    body = step("{python: 'pkg.mod:f'}").body
    assert isinstance(body, PythonBody)
    assert (body.file, body.module, body.function, body.arguments) == (None, "pkg.mod", "f", None)
    text = "steps: {a: {python: './t.py:gone'}}"
    assert messages_of(text, **{"t.py": source}) == ["./t.py does not define `gone`"]
    assert messages_of(text, **{"t.py": "from m import *\n"}) == []


def test_a_deeply_nested_python_file_is_a_problem_not_a_crash() -> None:
    found = messages_of("steps: {a: {python: './t.py:f'}}", **{"t.py": "x = " + "(" * 5000 + ")" * 5000})
    assert len(found) == 1
    assert "not valid Python" in found[0]


def test_secrets_are_for_python_arguments_alone() -> None:
    top = "secrets: [KEY]\ndefaults: {model: m}"
    body = step("{python: 'm:f', with: {k: '{{ secrets.KEY }}'}}", top=top).body
    assert isinstance(body, PythonBody)
    assert body.arguments is not None
    assert body.arguments.render({**VALUES, "secrets": {"KEY": "s3"}}) == {"k": "s3"}
    for elsewhere in (
        "{prompt: '{{ secrets.KEY }}'}",
        "{value: '{{ secrets.KEY }}'}",
        "{value: 1, when: '{{ secrets.KEY }}'}",
    ):
        with pytest.raises(InvalidWorkflow, match="secret"):
            step(elsewhere, top=top)


def test_a_model_is_needed_unless_answers_are_simulated() -> None:
    assert "has no model" in messages_of("steps: {a: {prompt: hi}}")[0]
    assert messages_of("steps: {a: {prompt: hi, provider: s}}\nproviders: {s: {type: simulated}}") == []
    assert llm("{prompt: hi}", top="defaults: {provider: simulated}").model.render(VALUES) == "simulated"
    assert "has no model" in messages_of("steps: {a: {prompt: hi, provider: '{{ run.id }}'}}")[0]


def test_built_in_providers_can_be_redefined() -> None:
    text = "providers: {openai: {base_url: 'http://127.0.0.1:1/v1/'}, s: {type: simulated, error_rate: 2%, latency: 800ms}}\nsteps: {a: {value: 1}}"
    providers = workflow(text).providers
    assert providers["openai"].base_url == "http://127.0.0.1:1/v1"
    assert providers["openai"].type == "openai"
    assert (providers["s"].error_rate, providers["s"].latency) == (pytest.approx(0.02), pytest.approx(0.8))
    assert providers["simulated"].type == "simulated"


def test_a_base_url_may_have_a_query_but_no_credentials_or_fragment() -> None:
    text = "providers: {{az: {{type: openai, base_url: '{url}'}}}}\nsteps: {{a: {{value: 1}}}}"
    url = "https://h.example/openai/v1?api-version=2024-10-21"
    assert workflow(text.format(url=url)).providers["az"].base_url == url
    for bad in ("https://h/v1#x", "https://h/v1?a=b c", "https://u:p@h/v1?a=b", "ftp://h/v1"):
        assert messages_of(text.format(url=bad)), bad


def test_limits_of_a_provider_and_of_its_simulation() -> None:
    text = "providers: {s: {type: simulated, limits: {max_concurrent: 2}, enforce: {requests_per_minute: 300, burst: 4}}}\nsteps: {a: {value: 1}}"
    found = workflow(text)
    assert found.limits is None
    assert found.providers["s"].limits == Limits(max_concurrent=2)
    assert found.providers["s"].enforce == Limits(requests_per_minute=300, burst=4)


def test_the_name_is_that_of_the_file_unless_it_is_given() -> None:
    assert workflow("steps: {a: {value: 1}}").name == "f"
    assert workflow("name: 2026\nsteps: {a: {value: 1}}").name == "2026"


def test_all_problems_are_reported_at_once_in_the_order_of_their_lines() -> None:
    text = """
        inputs: {X: 1}
        defaults: {modle: m}
        limits: {max_concurrent: 0}
        steps:
          Bad: {prompt: "{{ inputs.y }}", timeout: 5}
          a: {prompt: "{{ b", model: m}
          c: {value: "{{ d }}", needs: [e]}
        outputs: {o: "{{ zz }}"}
    """
    found = problems(text)
    assert [problem.line for problem in found] == sorted(problem.line for problem in found)
    assert {problem.line for problem in found} == {2, 3, 4, 6, 7, 8, 9}
    with pytest.raises(InvalidWorkflow) as caught:
        workflow(text)
    assert list(caught.value.problems) == found
    assert caught.value.exit_code == 2


def test_a_problem_shows_its_line() -> None:
    shown = str(problems("defaults: {model: m}\nsteps:\n  a: {prompt: '{{ hedline }}'}\n  headline: {value: 1}\n")[0])
    assert shown.splitlines()[0].startswith("/flows/f.yaml:3:19: unknown name")
    assert "did you mean `headline`" in shown
    lines = shown.splitlines()
    assert lines[-2].strip() == "a: {prompt: '{{ hedline }}'}"
    assert lines[-1].index("^") - 4 == 18


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_bytes(b"a: 1\nb: \xff\n")
    assert [(p.line, p.column, "not UTF-8" in p.message) for p in check(bad)] == [(2, 4, True)]
    bad.write_bytes(b"a: " + b"x" * 5_000_000)
    assert "too large" in check(bad)[0].message
    assert "no such file" in check(tmp_path / "none.yaml")[0].message
    assert "not a regular file" in check(tmp_path)[0].message
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "not a regular file" in check(tmp_path / "pipe.yaml")[0].message
    assert "regular" in check("/dev/zero")[0].message
    assert check("a\0b")[0].line == 1


def test_a_long_chain_of_steps_is_read() -> None:
    lines = [f"  s{n}: {{prompt: 'go on from {{{{ s{n - 1} }}}}'}}" for n in range(1, 2_000)]
    text = "\n".join(["defaults: {model: m}", "steps:", "  s0: {value: 1}", *lines])
    assert len(workflow(text).steps) == 2_000


def test_importing_the_parser_is_light() -> None:
    heavy = "openai networkx sqlalchemy alembic rich click jsonschema genai_prices"
    code = f"import flowllm.language.parse, sys; print([m for m in {heavy.split()!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


EVERYTHING = (VALID / "everything.yaml").read_text(encoding="utf-8")
PIECES = [
    "",
    " ",
    "\n",
    "{",
    "}",
    "[",
    "]",
    ":",
    "- ",
    "'",
    '"',
    "#",
    "{{ x }}",
    "null",
    "0",
    "&a ",
    "*a",
    "!!t ",
    "\t",
    "|",
    "é",
]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(EVERYTHING)), st.integers(0, 12), st.sampled_from(PIECES))
def test_a_damaged_workflow_gives_problems_never_a_crash(at: int, cut: int, piece: str) -> None:
    text = EVERYTHING[:at] + piece + EVERYTHING[at + cut :]
    path = str(VALID / "everything.yaml")
    disk = load_workflow(path).files
    for problem in check(path, files=SnapshotFiles({**disk, path: text})):
        assert problem.line >= 1
        assert problem.column >= 1
        assert problem.message
        assert problem.line <= text.count("\n") + 1 or problem.file != path
