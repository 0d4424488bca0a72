from __future__ import annotations

import itertools
from xml.etree import ElementTree as ET

from flowllm.core.types import NodeStatus
from flowllm.explain.draw import COLOURS
from flowllm.explain.graph import Graph
from flowllm.explain.svg import draw_svg
from tests.support.graphs import NESTED, blog, graph_of
from tests.support.workflows import workflow

NS = "{http://www.w3.org/2000/svg}"


def boxes(svg: str) -> dict[str, tuple[float, float, float, float]]:
    found = {}
    for group in ET.fromstring(svg).iter(f"{NS}g"):
        rect, label = group.find(f"{NS}rect"), group.find(f"{NS}text")
        assert rect is not None
        assert label is not None
        x, y, width, height = (float(rect.get(name, "")) for name in ("x", "y", "width", "height"))
        found[str(label.text)] = (x, y, x + width, y + height)
    return found


def lines(svg: str) -> list[ET.Element]:
    return [path for path in ET.fromstring(svg).iter(f"{NS}path") if path.get("marker-end")]


def test_every_step_has_a_box_inside_the_picture_and_no_two_overlap() -> None:
    graph = graph_of(*((f"a{i}", f"b{j}") for i in range(6) for j in range(9)), ("a0", "c"), ("b0", "c"))
    svg = draw_svg(graph)
    found = boxes(svg)
    assert set(found) == set(graph.steps)
    _, _, width, height = map(float, ET.fromstring(svg).get("viewBox", "").split())
    for x, y, right, bottom in found.values():
        assert 0 <= x < right <= width
        assert 0 <= y < bottom <= height
    for (ax, ay, ar, ab), (bx, by, br, bb) in itertools.combinations(found.values(), 2):
        assert ar < bx or br < ax or ab < by or bb < ay


def test_edges_run_downwards_one_each_and_dashed_where_optional() -> None:
    drawn = lines(draw_svg(blog()))
    assert len(drawn) == len(blog().edges)
    assert sum(path.get("stroke-dasharray") is not None for path in drawn) == 2
    found = boxes(draw_svg(blog()))
    for edge in blog().edges:
        assert found[edge.before][3] < found[edge.after][1]


def test_rows_are_sorted_so_that_edges_do_not_cross_without_need() -> None:
    graph = graph_of(("a", "y"), ("b", "x"), steps="a b x y")
    found = boxes(draw_svg(graph))
    assert (found["a"][0] < found["b"][0]) == (found["y"][0] < found["x"][0])


def test_statuses_colour_the_boxes() -> None:
    svg = draw_svg(blog(), {"intro": "failed"})
    assert svg.count(COLOURS["failed"][0]) == 1
    assert "prompt · failed" in svg


def test_the_name_is_escaped() -> None:
    svg = draw_svg(blog("<script>alert(1)</script>&"))
    assert ET.fromstring(svg).findtext(f"{NS}title") == "<script>alert(1)</script>&"
    assert "<script" not in svg


def test_an_empty_graph_is_a_picture_too() -> None:
    assert ET.fromstring(draw_svg(Graph(name="x", kinds={}, edges=()))).tag == f"{NS}svg"


def test_a_graph_within_is_listed_in_its_box() -> None:
    outer = NESTED + '  last: {value: "{{ posts }} {{ topics }}"}\n'
    svg = draw_svg(Graph.of(workflow(outer)))
    found = boxes(svg)
    assert found.keys() == {"topics", "posts", "last"}
    left, top, right, bottom = found["posts"]
    texts = [text for text in ET.fromstring(svg).iter(f"{NS}text") if "·" in str(text.text)]
    assert [text.text for text in texts] == ["headline · value", "body · value ×N"]
    for text in texts:
        assert left < float(text.get("x", "")) < right
        assert top < float(text.get("y", "")) < bottom
    assert bottom < found["last"][1]
    passing = next(path for path in lines(svg) if "V" in path.get("d", ""))
    assert f"V{bottom:g}" in passing.get("d", "")  # beside the tall box, not across it


def test_every_text_is_within_its_box_whatever_becomes_of_the_step() -> None:
    graph = Graph.of(workflow('defaults: {model: m}\nsteps: {a: {foreach: [1], prompt: "x"}, b: {prompt: "{{ a }}"}}'))
    for status in NodeStatus:
        for group in ET.fromstring(draw_svg(graph, statuses=dict.fromkeys("ab", status))).iter(f"{NS}g"):
            rect = group.find(f"{NS}rect")
            assert rect is not None
            for text in group.iter(f"{NS}text"):
                width = len(text.text or "") * 0.602 * float(text.get("font-size", ""))
                assert width + 8 <= float(rect.get("width", ""))
