from __future__ import annotations

import json

from flowllm.core.types import NodeStatus
from flowllm.explain.draw import draw_data, draw_dot, draw_mermaid, draw_text
from flowllm.explain.graph import Graph
from tests.support.graphs import NESTED, blog, graph_of
from tests.support.workflows import workflow

STATUSES = {"headline": "succeeded", "keywords": "succeeded", "intro": "failed", "outline": "blocked"}


def test_text() -> None:
    assert draw_text(blog()).splitlines() == [
        "1 ┬─ headline  prompt",
        "  └─ keywords  prompt",
        "2 ┬─ intro     prompt  ◀── headline",
        "  ├─ clean     python  ◀── keywords",
        "  └─ score     value   ◀╌╌ keywords",
        "3 ── outline   prompt  ◀── headline, intro",
        "4 ── post      prompt  ◀── outline  ◀╌╌ clean",
    ]


def test_text_with_statuses() -> None:
    assert draw_text(blog(), STATUSES).splitlines()[1:5] == [
        "  └─ ✓ keywords  prompt  succeeded",
        "2 ┬─ ✗ intro     prompt  failed     ◀── headline",
        "  ├─ · clean     python  pending    ◀── keywords",
        "  └─ · score     value   pending    ◀╌╌ keywords",
    ]


def test_text_in_ascii() -> None:
    drawn = draw_text(blog(), {**dict.fromkeys(blog().steps, "pending"), **STATUSES}, ascii_only=True)
    assert drawn.isascii()
    assert drawn.splitlines()[2:4] == [
        "2 |- x intro     prompt  failed     <-- headline",
        "  |- . clean     python  pending    <-- keywords",
    ]
    every = graph_of(steps=" ".join(NodeStatus))
    assert draw_text(every, {status: status for status in NodeStatus}, ascii_only=True).isascii()


def test_text_of_an_empty_graph() -> None:
    assert draw_text(graph_of()) == ""


def test_mermaid() -> None:
    assert draw_mermaid(blog('say "hi"'), STATUSES).splitlines() == [
        "---",
        'title: "say \\"hi\\""',
        "---",
        "flowchart TD",
        '    s_headline["headline"]',
        '    s_keywords["keywords"]',
        '    s_intro["intro"]',
        '    s_outline["outline"]',
        '    s_clean[["clean"]]',
        '    s_score("score")',
        '    s_post["post"]',
        "    s_headline --> s_intro",
        "    s_headline --> s_outline",
        "    s_intro --> s_outline",
        "    s_keywords --> s_clean",
        "    s_outline --> s_post",
        "    s_clean -.-> s_post",
        "    s_keywords -.-> s_score",
        "    classDef succeeded fill:#dcfce7,stroke:#16a34a,color:#111827",
        "    class s_headline,s_keywords succeeded",
        "    classDef failed fill:#fee2e2,stroke:#dc2626,color:#111827",
        "    class s_intro failed",
        "    classDef blocked fill:#ffedd5,stroke:#ea580c,color:#111827",
        "    class s_outline blocked",
    ]


def test_dot() -> None:
    lines = draw_dot(blog('a"b'), STATUSES).splitlines()
    assert lines[0] == 'digraph "a\\"b" {'
    assert '    "intro" [label="intro\\nprompt", shape=box, fillcolor="#fee2e2", color="#dc2626"];' in lines
    assert '    "score" [label="score\\nvalue", shape=ellipse, fillcolor="#f8fafc", color="#64748b"];' in lines
    assert '    "headline" -> "intro";' in lines
    assert '    "clean" -> "post" [style=dashed];' in lines
    assert lines[-1] == "}"


def test_data() -> None:
    data = json.loads(json.dumps(draw_data(blog(), STATUSES)))
    assert data["workflow"] == "blog"
    assert data["steps"][3] == {
        "id": "outline",
        "kind": "prompt",
        "foreach": False,
        "generation": 3,
        "needs": ["headline", "intro"],
        "status": "blocked",
    }
    assert {"from": "keywords", "to": "score", "tolerance": "any"} in data["edges"]
    assert {"from": "clean", "to": "post", "tolerance": "optional"} in data["edges"]
    assert "status" not in draw_data(blog())["steps"][0]


def nested() -> Graph:
    return Graph.of(workflow(NESTED))


def test_text_of_a_graph_within() -> None:
    assert draw_text(nested()).splitlines() == [
        "1 ── topics  value",
        "2 ── posts   workflow ×N  ◀── topics",
        "       1 ── headline  value",
        "       2 ── body      value ×N  ◀── headline",
    ]
    assert draw_text(nested(), {"posts": "running"}, ascii_only=True).isascii()


def test_mermaid_of_a_graph_within() -> None:
    assert draw_mermaid(nested(), {"posts": "failed"}).splitlines()[4:] == [
        '    s_topics("topics")',
        '    subgraph s_posts["posts ×N"]',
        '        s_posts_IN_headline("headline")',
        '        s_posts_IN_body("body ×N")',
        "        s_posts_IN_headline --> s_posts_IN_body",
        "    end",
        "    s_topics --> s_posts",
        "    classDef failed fill:#fee2e2,stroke:#dc2626,color:#111827",
        "    class s_posts failed",
    ]


def test_dot_of_a_graph_within() -> None:
    lines = [line.strip() for line in draw_dot(nested()).splitlines()]
    start, end = lines.index('subgraph "cluster_posts" {'), lines.index("}")
    within = lines[start:end]
    assert any(line.startswith('"posts" [label="posts\\nworkflow ×N", shape=folder') for line in within)
    assert '"posts.headline" -> "posts.body";' in within
    assert '"posts" -> "posts.headline" [style=dotted, arrowhead=none];' in within
    assert '"topics" -> "posts";' in lines[end:]


def test_data_of_a_graph_within() -> None:
    posts = json.loads(json.dumps(draw_data(nested(), {"posts": "running"})))["steps"][1]
    assert (posts["foreach"], posts["status"]) == (True, "running")
    assert [(one["id"], one["foreach"], one["needs"]) for one in posts["steps"]] == [
        ("posts.headline", False, []),
        ("posts.body", True, ["posts.headline"]),
    ]
    assert posts["edges"] == [{"from": "posts.headline", "to": "posts.body", "tolerance": "required"}]
