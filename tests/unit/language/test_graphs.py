from __future__ import annotations

import pytest

from flowllm.core.errors import InvalidWorkflow, UsageError
from flowllm.core.types import StepId
from flowllm.language import graphs
from flowllm.language.parse import Overrides, SnapshotFiles, load_workflow
from flowllm.language.workflow import LlmBody, Subgraph, WorkflowBody
from tests.support.workflows import PATH, problems, workflow

CHILD = """
inputs: {topic: , tone: friendly}
steps:
  headline: {prompt: "A headline for {{ inputs.topic }}"}
  body: {prompt: "A {{ inputs.tone }} post under {{ headline }}"}
outputs: {text: "{{ body }}"}
"""
OUTER = "defaults: {model: m}\nsteps:\n  post: {workflow: ./child.yaml, with: {topic: tea}}\n"
VALUES = {"inputs": {"topic": "t"}, "steps": {}, "run": {}, "secrets": {}}


def within(found: Subgraph, *path: str) -> Subgraph:
    graph: Subgraph = found
    for step in path:
        body = graph.steps[StepId(step)].body
        assert isinstance(body, WorkflowBody)
        graph = body.graph
    assert isinstance(graph, Subgraph)
    return graph


def asked(graph: Subgraph, step: str) -> tuple[str, str]:
    body = graph.steps[StepId(step)].body
    assert isinstance(body, LlmBody)
    return body.provider.render(VALUES), body.model.render(VALUES)  # type: ignore[return-value]


def digest(child: str = CHILD, outer: str = OUTER, **overrides: object) -> str:
    files = {"child.yaml": child, "p.md": "one"}
    return workflow(outer, files=files, overrides=Overrides(**overrides)).digest  # type: ignore[arg-type]


def messages(text: str, files: dict[str, str] | None = None) -> list[str]:
    """What is wrong, with its place."""
    return [f"{one.file}:{one.line}:{one.column} {one.message}" for one in problems(text, files=files)]


# files and inline


def test_a_file_is_a_graph_of_its_own() -> None:
    found = workflow(OUTER, files={"child.yaml": CHILD})
    child = within(found, "post")
    assert (child.name, child.path) == ("child", "/flows/child.yaml")
    assert list(child.steps) == ["headline", "body"]
    assert list(child.inputs) == ["topic", "tone"]
    assert list(child.outputs) == ["text"]
    assert found.steps[StepId("post")].edges == {}


def test_an_inline_graph_is_closed() -> None:
    text = """
        inputs: {x: 1}
        secrets: [OUTER]
        steps:
          a: {value: 1}
          b:
            foreach: "{{ a }}"
            workflow:
              steps:
                c: {value: "{{ inputs.x }} {{ a }} {{ item }} {{ run.id }}"}
    """
    reported = messages(text)
    assert [one.split(" ", 1)[0] for one in reported] == [
        "/flows/f.yaml:10:31",
        "/flows/f.yaml:10:39",
        "/flows/f.yaml:10:47",
    ]
    assert (
        within(workflow("steps: {b: {workflow: {steps: {a: {value: 1}}, outputs: {x: '{{ a }}'}}}}"), "b").name == "b"
    )


def test_paths_are_relative_to_the_file_that_they_stand_in() -> None:
    files = {
        "sub/mid.yaml": "steps: {inner: {workflow: ./leaf.yaml}}",
        "sub/leaf.yaml": "steps: {a: {prompt: {file: ../p.md}}, b: {python: ./f.py:run}}",
        "p.md": "hello",
        "sub/f.py": "def run(): return 1\n",
    }
    found = workflow("defaults: {model: m}\nsteps: {m: {workflow: sub/mid.yaml}}", files=files)
    assert within(found, "m", "inner").path == "/flows/sub/leaf.yaml"
    assert set(found.files) == {PATH, *(f"/flows/{name}" for name in files)}
    again = load_workflow(PATH, files=SnapshotFiles(found.files))
    assert again.digest == found.digest


def test_a_child_names_steps_that_may_not_be_confused_with_those_around() -> None:
    text = "steps: {a: {workflow: {steps: {a: {value: 1}}, outputs: {x: '{{ a }}'}}}}"
    assert list(within(workflow(text), "a").steps) == ["a"]


def test_secrets_of_children_are_the_workflows() -> None:
    child = "secrets: [INNER, BOTH]\nsteps: {a: {shell: env, env: {X: '{{ secrets.INNER }}'}}}"
    found = workflow(
        "secrets: [BOTH]\nsteps: {x: {workflow: ./c.yaml}, y: {workflow: ./c.yaml}}", files={"c.yaml": child}
    )
    assert found.secrets == ("BOTH", "INNER")


# what is inherited


def test_defaults_are_inherited_key_by_key() -> None:
    text = """
        defaults: {model: outer, max_tokens: 5}
        providers: {work: {type: openai, base_url: "http://127.0.0.1:1/v1"}}
        steps:
          plain: {workflow: {steps: {a: {prompt: hi}}}}
          own: {workflow: {defaults: {model: inner, provider: work}, steps: {a: {prompt: hi}}}}
    """
    found = workflow(text)
    assert asked(within(found, "plain"), "a") == ("openai", "outer")
    assert asked(within(found, "own"), "a") == ("work", "inner")
    body = within(found, "own").steps[StepId("a")].body
    assert isinstance(body, LlmBody)
    assert body.params is not None
    assert body.params.render(VALUES) == {"max_tokens": 5}


@pytest.mark.parametrize(("url", "registered"), [("two", "child/work"), ("one", None)])
def test_a_provider_of_its_own_never_takes_the_name_of_another(url: str, registered: str | None) -> None:
    child = f"""
providers: {{work: {{type: openai, base_url: "http://127.0.0.1/{url}"}}}}
defaults: {{provider: work, model: m}}
steps: {{a: {{prompt: hi}}}}
"""
    outer = """
        providers: {work: {type: openai, base_url: "http://127.0.0.1/one"}}
        steps: {b: {prompt: hi, provider: work, model: m}, post: {workflow: ./child.yaml}}
    """
    found = workflow(outer, files={"child.yaml": child})
    assert found.providers["work"].base_url == "http://127.0.0.1/one"
    body = within(found, "post").steps[StepId("a")].body
    assert isinstance(body, LlmBody)
    assert body.aliases.get("work") == registered
    name = registered or "work"
    assert found.providers[name].base_url == f"http://127.0.0.1/{url}"
    assert found.providers[name].name == name


def test_siblings_with_different_providers_of_one_name() -> None:
    def child(url: str) -> str:
        return f"{{providers: {{w: {{type: openai, base_url: 'http://127.0.0.1/{url}'}}}}, steps: {{s: {{prompt: x, provider: w, model: m}}}}}}"

    found = workflow(f"steps:\n  a: {{workflow: {child('a')}}}\n  b: {{workflow: {child('b')}}}\n")
    urls = []
    for step in ("a", "b"):
        body = within(found, step).steps[StepId("s")].body
        assert isinstance(body, LlmBody)
        urls.append(found.providers[body.aliases.get("w", "w")].base_url)
    assert urls == ["http://127.0.0.1/a", "http://127.0.0.1/b"]


def test_a_provider_that_does_not_exist() -> None:
    reported = messages("steps: {a: {workflow: {defaults: {provider: nowhere}, steps: {b: {value: 1}}}}}")
    assert reported == ["/flows/f.yaml:1:45 there is no provider `nowhere`"]


@pytest.mark.parametrize("key", ["limits: {max_concurrent: 3}", "budget: {usd: 1}"])
def test_what_belongs_to_the_account_is_refused(key: str) -> None:
    found = problems(OUTER, files={"child.yaml": f"{key}\n{CHILD.lstrip()}"})
    assert [(one.file, one.line, one.column) for one in found] == [("/flows/child.yaml", 1, 1)]
    assert "put it into the outer workflow or flowllm.yaml" in found[0].hint


# overrides


def test_overrides_hold_within() -> None:
    child = f"defaults: {{model: own, provider: openai}}\n{CHILD.lstrip()}"
    found = workflow(OUTER, files={"child.yaml": child}, overrides=Overrides(provider="simulated", model="big"))
    assert asked(within(found, "post"), "body") == ("simulated", "big")


@pytest.mark.parametrize("inline", [True, False])
def test_set_reaches_one_step_of_one_use(inline: bool) -> None:
    child = "{inputs: {topic: }, steps: {headline: {prompt: hi}}}"
    use = child if inline else "./child.yaml"
    outer = (
        f"steps:\n  post: {{workflow: {use}, with: {{topic: a}}}}\n  other: {{workflow: {use}, with: {{topic: b}}}}\n"
    )
    settings = {"post.headline.model": "x", "defaults.model": "y"}
    found = workflow(outer, files={"child.yaml": child}, overrides=Overrides(settings=settings))
    assert asked(within(found, "post"), "headline") == ("openai", "x")
    assert asked(within(found, "other"), "headline") == ("openai", "y")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("post.headlin.model", "there is no step `headlin`\n  did you mean `headline`?"),
        ("post.headline.modle", "there is no option `modle` here\n  did you mean `model`?"),
        ("pots.headline.model", "there is no step `pots`"),
        ("post.headline", "there is no option `headline` here"),
    ],
)
def test_paths_that_do_not_exist(option: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        workflow(OUTER, files={"child.yaml": CHILD}, overrides=Overrides(settings={option: "x"}))
    assert message in str(caught.value)


# depth, recursion, size


def nested(depth: int) -> str:
    text = "{steps: {last: {value: 1}}}"
    for _ in range(depth):
        text = f"{{steps: {{s: {{workflow: {text}}}}}}}"
    return text


def test_ten_levels_and_no_more() -> None:
    assert within(workflow(nested(10)), *"s" * 10).steps.keys() == {"last"}
    assert len(found := problems(nested(11))) == 1
    assert found[0].message == "graphs are nested to a depth of 10 at most, and this one is deeper"


def test_recursion_is_reported_with_the_chain_of_files() -> None:
    files = {"a.yaml": "steps:\n  x: {workflow: ./b.yaml}\n", "b.yaml": "steps:\n  y:\n    workflow: ./a.yaml\n"}
    reported = messages("steps: {s: {workflow: a.yaml}}", files)
    assert len(reported) == 1
    assert reported[0] == (
        "/flows/b.yaml:3:15 this workflow would be within itself: "
        "/flows/f.yaml → /flows/a.yaml → /flows/b.yaml → /flows/a.yaml"
    )
    assert messages("steps: {s: {workflow: ./f.yaml}}") == [
        "/flows/f.yaml:1:23 this workflow would be within itself: /flows/f.yaml → /flows/f.yaml"
    ]


@pytest.mark.parametrize("settings", [{}, {"a.a.a.model": "x"}])
def test_a_diamond_is_read_once_a_level(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def level(number: int) -> str:
        within = f"{{workflow: {number + 1}.yaml}}"
        return f"steps: {{{', '.join(f'{step}: {within}' for step in 'bcdefgh')}, a: {{value: 1}}}}"

    files = {f"{number}.yaml": level(number) for number in range(1, 10)}
    files["10.yaml"] = "steps: {end: {value: 1}}"
    files["1.yaml"] = files["1.yaml"].replace("a: {value: 1}", "a: {workflow: p.yaml}")
    files["p.yaml"] = "{defaults: {model: m}, steps: {a: {prompt: hi}}}"
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 12)
    monkeypatch.setattr(graphs, "MOST_STEPS", 10**9)
    found = workflow("steps: {a: {workflow: 1.yaml}}", files=files, overrides=Overrides(settings=settings))
    assert within(found, "a", "b", "c") is within(found, "a", "h", "d")
    assert asked(within(found, "a", "a"), "a")[1] == ("x" if settings else "m")


def test_there_is_an_end_to_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 3)
    steps = ", ".join(f"s{number}: {{workflow: {{steps: {{a: {{value: 1}}}}}}}}" for number in range(4))
    with pytest.raises(InvalidWorkflow, match="more than 3 graphs"):
        workflow(f"steps: {{{steps}}}")


def test_steps_are_counted_before_anybody_goes_through_them() -> None:
    files = {
        f"{level}.yaml": f"steps: {{{', '.join(f's{n}: {{workflow: {level + 1}.yaml}}' for n in range(10))}}}"
        for level in range(1, 8)
    }
    files["8.yaml"] = f"steps: {{{', '.join(f's{n}: {{value: {n}}}' for n in range(10))}}}"
    (reported,) = messages("steps:\n  a: {value: 1}\n  b: {workflow: 1.yaml}\n", files)
    assert reported.startswith("/flows/f.yaml:3:3 with the graphs within its steps this workflow has 111,111,112 steps")
    assert "111,111,110 of them in `b`; 1,000,000 at most can be run" in reported
    assert within(workflow("steps: {b: {workflow: 4.yaml}}", files=files), "b").size == 111_110


# problems


def test_problems_of_a_child_are_reported_once_at_its_own_places() -> None:
    child = "steps:\n  a: {prompt: '{{ nope }}'}\n  b: {prompt: '{{ c }}'}\n  c: {prompt: '{{ b }}'}\n"
    outer = """defaults: {model: m}
steps:
  x: {workflow: c.yaml}
  y: {workflow: c.yaml}
  z: {workflow: {steps: {in_z: {workflow: c.yaml}}}}
  w: {prompt: "{{ wrong }}"}
"""
    reported = messages(outer, {"c.yaml": child})
    assert [one.split(" ", 1)[0] for one in reported if "wait for each other" in one] == ["/flows/c.yaml:3:3"]
    assert sum("/flows/c.yaml:2:" in one for one in reported) == 1
    assert sum("/flows/f.yaml:6:" in one for one in reported) == 1
    assert len(reported) == 3


def test_a_file_that_is_not_there() -> None:
    reported = messages("steps:\n  a: {workflow: ./gone.yaml}\n")
    assert len(reported) == 1
    assert reported[0].startswith("/flows/f.yaml:2:17 the file ./gone.yaml cannot be read")


# the digest


@pytest.mark.parametrize(
    "same",
    [
        f"# a comment\n\n{CHILD}\n",
        f"description: other\n{CHILD.lstrip()}",
        CHILD.replace("{topic: ,", "{topic: {description: What about},"),
        CHILD.replace("{text:", "{  text:"),
    ],
)
def test_cosmetics_do_not_change_the_digest(same: str) -> None:
    assert same != CHILD
    assert digest(same) == digest()


@pytest.mark.parametrize(
    "other",
    [
        CHILD.replace("A headline", "A title"),
        CHILD.replace("friendly", "formal"),
        CHILD.replace("{text:", "{texts:"),
        f"defaults: {{temperature: 1}}\n{CHILD.lstrip()}",
        f"providers: {{openai: {{type: openai, base_url: 'http://127.0.0.1/x'}}}}\n{CHILD.lstrip()}",
        CHILD.replace("body: {", "body: {output: {type: string, description: A post}, "),
    ],
)
def test_meaning_changes_the_digest(other: str) -> None:
    assert other != CHILD
    assert digest(other) != digest()


def test_a_description_that_is_sent_is_meaning() -> None:
    def of(text: str) -> str:
        return workflow(f"steps: {{a: {{value: {{description: {text}}}}}}}").digest

    assert of("one") != of("two")


def test_overrides_and_files_change_the_digest() -> None:
    assert digest(model="x") != digest()
    assert digest(settings={"post.body.temperature": "1"}) != digest()

    def of(prompt: str) -> str:
        return workflow("{defaults: {model: m}, steps: {a: {prompt: {file: p.md}}}}", files={"p.md": prompt}).digest

    assert of("one") != of("two")


def test_a_digest_does_not_depend_on_the_name_a_provider_is_registered_under() -> None:
    child = "{providers: {w: {type: openai, base_url: 'http://127.0.0.1/a'}}, steps: {s: {prompt: x, provider: w, model: m}}}"
    alone = workflow(f"steps: {{a: {{workflow: {child}}}}}")
    other = "providers: {w: {type: simulated}}\n"
    assert within(alone, "a").digest == within(workflow(f"{other}steps: {{a: {{workflow: {child}}}}}"), "a").digest


# keep


@pytest.mark.parametrize(
    ("keep", "reported"),
    [
        ('"{{ outputs.other }}"', "unknown output `other`"),
        ('"{{ a }} or not"', "a condition is exactly one"),
        ("true", "a condition is exactly one"),
        ("[a]", "expected a text"),
        ('"{{ item }}"', "`item` is only known"),
        ('"{{ b }}"', "unknown name `b`"),
    ],
)
def test_what_keep_cannot_be(keep: str, reported: str) -> None:
    found = problems(f"steps: {{a: {{value: 1}}}}\noutputs: {{x: '{{{{ a }}}}'}}\nkeep: {keep}\n")
    assert len(found) == 1
    assert reported in f"{found[0].message} {found[0].hint}"


def test_keep_sees_outputs_and_is_part_of_what_a_graph_does() -> None:
    text = "steps: {a: {value: 1}}\noutputs: {x: '{{ a }}'}\n"
    with_it = workflow(f'{text}keep: "{{{{ outputs.x > 1 and a is defined }}}}"\n')
    assert with_it.keep is not None
    assert list(with_it.keep.edges) == ["a"]
    assert with_it.digest != workflow(text).digest
    assert "`outputs` is only known in `keep`" in problems("steps: {a: {value: '{{ outputs.x }}'}}\n")[0].hint
    assert workflow("steps: {outputs: {value: 1}}\nkeep: '{{ outputs > 1 }}'\n").keep is not None
    assert (
        "`keep` cannot stand in"
        in messages("steps: {a: {workflow: {keep: '{{ true }}', steps: {b: {value: 1}}}}}\n")[0]
    )
