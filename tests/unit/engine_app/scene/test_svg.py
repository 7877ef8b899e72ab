from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from backend.graph import Graph, Node
from engine_app.document.files import editable
from engine_app.scene.snapshot import SnapshotBuilder
from engine_app.scene.svg import svg_of
from engine_app.ui.desk import Desk
from engine_app.ui.examples import DIGITS
from engine_app.ui.theme import DARK, LIGHT

SVG = "{http://www.w3.org/2000/svg}"


def drawn(graph: Graph, palette: object = DARK) -> ElementTree.Element:
    desk = Desk(editable(graph).graph)
    scene = SnapshotBuilder().build(desk.wiring, desk.analysis)
    return ElementTree.fromstring(svg_of(scene, palette, graph.name))  # type: ignore[arg-type]


def test_every_node_link_and_port_is_there_inside_the_picture() -> None:
    root = drawn(DIGITS)
    words = [element.text for element in root.iter(f"{SVG}text")]
    for node in DIGITS.nodes:
        assert node.type in words
    assert "1×8×8" in words  # shapes, as on the canvas
    assert len(list(root.iter(f"{SVG}polyline"))) == len(DIGITS.links)
    left, top, width, _ = map(float, root.attrib["viewBox"].split())
    for rect in root.iter(f"{SVG}rect"):
        assert left <= float(rect.attrib["x"])
        assert float(rect.attrib["x"]) + float(rect.attrib["width"]) <= left + width
        assert top <= float(rect.attrib["y"])
    for line in root.iter(f"{SVG}polyline"):  # also those that go around
        xs = [float(place.partition(",")[0]) for place in line.attrib["points"].split()]
        assert left < min(xs) and max(xs) < left + width
    colours = {line.attrib["stroke"] for line in root.iter(f"{SVG}polyline")}
    assert len(colours) == 4  # dataset, tensor, labels, loss
    assert colours != {line.attrib["stroke"] for line in drawn(DIGITS, LIGHT).iter(f"{SVG}polyline")}


def test_names_cannot_break_out_and_an_empty_graph_is_a_picture() -> None:
    evil = '"><script>alert(1)</script>\x00\x1b&'
    graph = replace(DIGITS, name=evil, nodes=(*DIGITS.nodes, Node(evil, evil)))
    root = drawn(graph)
    assert not list(root.iter(f"{SVG}script"))
    title = root.find(f"{SVG}title")
    assert title is not None and title.text is not None and title.text.startswith('"><script>')
    assert not list(drawn(Graph("empty")).iter(f"{SVG}g"))
