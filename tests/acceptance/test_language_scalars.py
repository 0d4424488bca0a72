"""The language: what an unquoted scalar means, durations, paths, and the author's own keys."""

from __future__ import annotations

import pytest

from tests.support.author import Author
from tests.support.project import ROOT


@pytest.mark.parametrize(
    "scalar",
    ["no", "yes", "on", "off", "No", "True", "NULL", "012", "12:30", "2026-11-21", "0x1F", "1e", ".inf", "1_", "5%"],
)
def test_what_is_no_word_or_number_of_yaml_1_2_is_text(author: Author, scalar: str) -> None:
    assert author.outputs(f'steps: {{it: {{value: {scalar}}}}}\noutputs: {{o: "{{{{ it }}}}"}}') == {"o": scalar}


@pytest.mark.parametrize(
    ("scalar", "value"),
    [("1_000", 1000), ("7", 7), ("-3", -3), ("1.50", 1.5), ("1_000.5", 1000.5), ("1e3", 1000.0), ("true", True), ("false", False), ("null", None), ("~", None)],
)  # fmt: skip
def test_words_and_plain_decimal_numbers_are_what_they_say(author: Author, scalar: str, value: object) -> None:
    step = author.run(f"steps: {{it: {{value: {scalar}}}}}").steps["it"]
    assert step.output == value
    assert type(step.output) is type(value)


@pytest.mark.parametrize("scalar", ['"7"', "'true'", '"null"'])
def test_a_quoted_scalar_is_text(author: Author, scalar: str) -> None:
    assert author.run(f"steps: {{it: {{value: {scalar}}}}}").steps["it"].output == scalar[1:-1]


@pytest.mark.parametrize("scalar", ["012", "12:30", "1_000", "1.50", "no", "true", "null", "2026-11-21", "5"])
def test_a_prompt_is_the_text_as_written(author: Author, scalar: str) -> None:
    flow = f"defaults: {{model: 4.10}}\nsteps:\n  it:\n    prompt: {scalar}\n    system: {scalar}\n    stop: {scalar}\n"
    (seen,) = author.sent(flow)
    assert [message["content"] for message in seen.body["messages"]] == [scalar, scalar]
    assert (seen.body["model"], seen.body["stop"]) == ("4.10", scalar)


def test_messages_hold_text_as_written(author: Author) -> None:
    flow = "defaults: {model: m}\nsteps:\n  it:\n    messages: [{role: user, content: 012}, {role: user, content: 1_000}]\n"
    assert [message["content"] for message in author.sent(flow)[0].body["messages"]] == ["012", "1_000"]


@pytest.mark.parametrize("given", ["de", "no"])
def test_an_enum_of_an_input_is_text_as_written(author: Author, given: str) -> None:
    flow = 'inputs: {lang: {default: no, enum: [de, no]}}\nsteps: {it: {value: "{{ inputs.lang }}"}}\noutputs: {o: "{{ it }}"}'
    assert author.outputs(flow) == {"o": "no"}
    assert author.outputs(flow, lang=given) == {"o": given}


def test_a_default_and_an_enum_of_text_are_as_written(author: Author) -> None:
    flow = 'inputs: {v: {type: string, default: 1.10, enum: [1.10, 012, true, 1_0]}}\nsteps: {it: {value: "{{ inputs.v }}"}}\noutputs: {o: "{{ it }}"}'
    assert author.outputs(flow) == {"o": "1.10"}
    for given in ("012", "true", "1_0"):
        assert author.outputs(flow, v=given) == {"o": given}


def test_an_enum_of_numbers_is_numbers(author: Author) -> None:
    flow = 'inputs: {n: {type: integer, default: 1_000, enum: [1_000, 5]}}\nsteps: {it: {value: "{{ inputs.n + 1 }}"}}\noutputs: {o: "{{ it }}"}'
    assert author.outputs(flow) == {"o": 1001}


def test_an_enum_of_a_schema_is_text_as_written(author: Author) -> None:
    flow = """
        defaults: {model: m}
        steps:
          it:
            prompt: '[json={"a": "no", "b": "1.10"}]'
            output:
              type: object
              properties: {a: {enum: [de, no]}, b: {type: string, enum: [1.10, true]}, c: {enum: [1, null]}}
        outputs: {o: "{{ it }}"}
        """
    assert author.outputs(flow) == {"o": {"a": "no", "b": "1.10"}}
    schema = author.server.requests[0].body["response_format"]["json_schema"]["schema"]
    assert [part["enum"] for part in schema["properties"].values()] == [["de", "no"], ["1.10", "true"], [1, None]]


@pytest.mark.parametrize(
    ("flow", "place"),
    [
        ("steps:\n  it:\n    prompt: List ten #1 hits\n    model: m\n", (3, 22)),
        ("steps:\n  it:\n    prompt: List ten # hits\n    model: m\n", (3, 22)),
        ("steps:\n  it:\n    prompt: hi\n    system: Be brief #please\n    model: m\n", (4, 22)),
        ("steps:\n  it:\n    messages:\n    - role: user\n      content: one #two\n    model: m\n", (5, 20)),
    ],
)
def test_a_comment_behind_an_unquoted_prompt_is_an_error(author: Author, flow: str, place: tuple[int, int]) -> None:
    problem = author.problem(flow)
    assert (problem.line, problem.column) == place
    assert "comment" in problem.message
    assert "quote" in problem.hint


@pytest.mark.parametrize(
    "prompt", ['"List ten #1 hits"', "'List ten #1 hits'", "|\n      List ten #1 hits", ">-\n      List ten #1 hits"]
)
def test_a_quoted_prompt_keeps_its_hash(author: Author, prompt: str) -> None:
    flow = f"defaults: {{model: m}}\nsteps:\n  it:\n    prompt: {prompt}\n"
    assert author.sent(flow)[0].prompt == "List ten #1 hits"


def test_a_hash_within_a_word_and_comments_elsewhere_are_no_error(author: Author) -> None:
    flow = "defaults: {model: m}  # mine\nsteps:\n  it:\n    prompt: Write C#7 code\n    # and this\n    max_tokens: 5 # short\n"
    (seen,) = author.sent(flow)
    assert (seen.prompt, seen.body["max_tokens"]) == ("Write C#7 code", 5)


@pytest.mark.parametrize(
    "option",
    ["timeout: 30", "timeout: 1.5", "retry: {initial_delay: 1}", "retry: {max_delay: 60}", "retry: {attempt_timeout: 5}", "cache: {ttl: 7}", "timeout: 0", "timeout: 5 minutes", "timeout: '30'"],
)  # fmt: skip
def test_a_duration_has_a_unit(author: Author, option: str) -> None:
    problem = author.problem(f"steps:\n  it:\n    prompt: hi\n    model: m\n    {option}\n")
    assert problem.line == 5
    assert "duration" in problem.message


@pytest.mark.parametrize("duration", ["500ms", "30s", "5m", "1h", "7d", "1.5h", "'30s'"])
def test_durations(author: Author, duration: str) -> None:
    flow = f"steps:\n  it: {{value: 1, timeout: {duration}, cache: {{ttl: {duration}}}, retry: {{max_delay: {duration}}}}}\n"
    assert author.steps(flow) == {"it": "succeeded"}


@pytest.mark.parametrize(
    ("share", "ok"), [("2%", True), ("0.5%", True), ("2", False), ("0.02", False), ("101%", False)]
)
def test_a_share_has_a_percent_sign(author: Author, share: str, *, ok: bool) -> None:
    flow = f"providers: {{p: {{type: simulated, error_rate: {share}}}}}\nsteps: {{it: {{value: 1}}}}"
    if ok:
        assert author.steps(flow) == {"it": "succeeded"}
    else:
        assert "share" in author.problem(flow).message


def test_keys_of_the_author_begin_with_x(author: Author) -> None:
    flow = """
        x-notes: {anything: [goes, {here: "{{ even this }}"}]}
        x-schema: &words {type: array, items: {type: string}}
        defaults: {model: m}
        steps:
          one: {prompt: '[json={"value": ["a"]}] 1', output: *words}
          two: {prompt: '[json={"value": ["b"]}] 2', output: *words}
        outputs: {o: "{{ one + two }}"}
        """
    assert author.outputs(flow) == {"o": ["a", "b"]}
    assert "unknown key `y-notes`" in author.problem("y-notes: 1\nsteps: {it: {value: 1}}").message
    assert "unknown key `x-notes`" in author.problem("steps: {it: {value: 1, x-notes: 1}}").message


def test_paths_in_a_workflow_are_relative_to_its_file(author: Author) -> None:
    author.write("flows/parts/judge.md", "Judge {{ inputs.x }}.\n")
    author.write("flows/shape.json", '{"$ref": "parts/answer.json"}')
    author.write(
        "flows/parts/answer.json", '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
    )
    author.write("flows/mine.py", "def double(n):\n    return n * 2\n")
    for decoy in ("parts/judge.md", "shape.json", "mine.py"):
        author.write(decoy, "this is not the file that is meant")
    flow = """
        inputs: {x: tea}
        defaults: {model: m}
        steps:
          judge:
            prompt: {file: ./parts/judge.md}
            system: {file: parts/judge.md}
          shaped: {prompt: '[json={"a": 4}]', output: shape.json}
          doubled: {python: "./mine.py:double", with: {n: "{{ shaped.a }}"}}
        outputs: {o: "{{ doubled }}"}
        """
    result = author.run(flow, name="flows/flow.yaml")
    assert result.outputs == {"o": 8}
    told = next(seen for seen in author.server.requests if seen.prompt.startswith("Judge"))
    assert told.body["messages"] == [{"role": role, "content": "Judge tea."} for role in ("system", "user")]


def test_a_problem_in_a_templates_file_is_told_at_its_place_there(author: Author) -> None:
    author.write("judge.md", "one\ntwo {{ inputs.nope }}\n")
    problem = author.problem("inputs: {x: 1}\nsteps: {it: {prompt: {file: judge.md}, model: m}}")
    assert (problem.file, problem.line, problem.column) == (str(author.folder / "judge.md"), 2, 15)


def test_the_blog_of_the_contract_is_the_one_that_ships(author: Author) -> None:
    text = (ROOT / "workflows" / "blog.yaml").read_text(encoding="utf-8")
    result = author.run(text)
    assert result.status == "succeeded"
    assert set(result.outputs) == {"headline", "keywords"}
    assert isinstance(result.outputs["keywords"], list)
