"""Drawings say what they should: nodes in their plates and in no others, none on another, lines around nodes; 80 columns."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest

import zoo
from tests.zoo.structure.graph.programs import PROGRAMS, foreign
from zoo.structure.graph.edges import line
from zoo.structure.graph.layout import layout, name
from zoo.structure.graph.plates import Box, Crossing, arrange, nodes_of
from zoo.structure.graph.shelves import Frame, Spot

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module", params=PROGRAMS)
def described(request: pytest.FixtureRequest) -> zoo.Description:
    return zoo.describe(*PROGRAMS[request.param])


def overlap(one: Spot | Frame, other: Spot | Frame) -> bool:
    """Return whether two rectangles share more than a border."""
    boxes = [
        (p.x - p.width / 2, p.y - p.height / 2, p.x + p.width / 2, p.y + p.height / 2) if isinstance(p, Spot)
        else (p.x, p.y, p.x + p.width, p.y + p.height) for p in (one, other)]
    (a, b, c, d), (e, f, g, h) = boxes
    return min(c, g) - max(a, e) > 0.1 and min(d, h) - max(b, f) > 0.1


def within(spot: Spot, frame: Frame) -> bool:
    """Return whether a node is in a rectangle, up to rounding."""
    return (
        abs(spot.x - frame.x - frame.width / 2) < (frame.width - spot.width) / 2 + 1e-6
        and abs(spot.y - frame.y - frame.height / 2) < (frame.height - spot.height) / 2 + 1e-6)


def test_nodes_are_in_the_boxes_of_their_plates_alone(described: zoo.Description) -> None:
    placed = layout(described.nodes, described.plates)
    for node in described.nodes:
        spot = placed.spots[node.label]
        inside = {frame.plate for frame in placed.frames if within(spot, frame)}
        assert inside == set(node.first.plates)
        assert not any(overlap(spot, frame) for frame in placed.frames if frame.plate not in node.first.plates)


def test_nothing_lies_on_a_node_or_outside(described: zoo.Description) -> None:
    placed = layout(described.nodes, described.plates)
    assert not any(overlap(one, other) for one, other in combinations(placed.spots.values(), 2))
    picture = Frame("", 0.0, 0.0, placed.width, placed.height)
    assert all(within(spot, picture) for spot in placed.spots.values())


def test_children_are_below_their_parents(described: zoo.Description) -> None:
    spots = layout(described.nodes, described.plates).spots
    for node in described.nodes:
        assert all(spots[parent].y < spots[node.label].y for parent in node.parents)


def test_each_plate_has_one_box_where_its_nodes_can_stand_side_by_side() -> None:
    def boxes(program: str) -> list[str]:
        found = zoo.describe(*PROGRAMS[program])
        return sorted(frame.plate for frame in layout(found.nodes, found.plates).frames)

    assert boxes("nested") == ["classes", "schools"]
    assert boxes("crossed") == ["items", "students"]
    assert sorted(set(boxes("three_ways"))) == ["a", "b", "c"]
    assert len(boxes("three_ways")) == 4  # of three that cross in pairs one stands apart


def test_plates_nest_and_cross() -> None:
    found = arrange(zoo.describe(*PROGRAMS["crossed"]).nodes)
    crossing = next(item for item in found if isinstance(item, Crossing))
    assert {cell.plates: [node.label for node in nodes_of(cell)] for cell in crossing.cells} == {
        ("students",): ["ability"], ("items",): ["difficulty"], ("students", "items"): ["answer"]}
    box = next(item for item in arrange(zoo.describe(*PROGRAMS["nested"]).nodes) if isinstance(item, Box))
    assert (box.plates, [type(item).__name__ for item in box.items]) == (("schools",), ["Node", "Box"])


def test_lines_keep_off_other_nodes(described: zoo.Description) -> None:
    if described.label == "long_names":
        return  # twelve wide nodes above another leave no way through
    spots = layout(described.nodes, described.plates).spots
    for node in described.nodes:
        for parent in node.parents:
            others = {label: spot for label, spot in spots.items() if label not in (parent, node.label)}
            found = line(spots[parent], spots[node.label], list(others.values()))
            points = [found.at(i / 200) for i in range(201)]
            assert [label for label, spot in others.items() if any(spot.holds(*point) for point in points)] == []
            assert not any(spots[node.label].holds(*point) for point in points[:-20])


def test_svg_is_well_formed_and_names_all(described: zoo.Description) -> None:
    image = ElementTree.fromstring(described.svg())
    texts = ["".join(text.itertext()) for text in image.iter(f"{SVG}text")]
    for node in described.nodes:
        assert any(text.endswith(name(node)) for text in texts)
    for plate, rows in described.plates.items():
        assert f"{plate} × {rows}" in texts
    arrows = sum(len(node.parents) + bool(node.loop) for node in described.nodes)
    assert len(list(image.iter(f"{SVG}polygon"))) == arrows


def test_kinds_look_different() -> None:
    drawn = zoo.describe(*PROGRAMS["discrete_chain"]).svg()
    assert 'stroke-dasharray="4 3"' in drawn  # summed out
    assert 'fill="#cfd4da"' in drawn  # observed
    assert 'stroke-dasharray' not in zoo.describe(*PROGRAMS["nested"]).svg()


def test_markup_in_names_is_text() -> None:
    import pyro
    import pyro.distributions as dist

    def program(x: object) -> None:
        a = pyro.sample("a<b>&c", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    found = zoo.describe(program, [1.0])
    ElementTree.fromstring(found.svg())
    assert "a&lt;b&gt;&amp;c" in found._repr_html_()


def test_text_fits_a_terminal(described: zoo.Description) -> None:
    for text in (described.table(), described.drawing()):
        assert max(len(row) for row in text.splitlines()) <= 80
    for node in described.nodes:
        assert node.label in described.drawing()


def test_programs_of_others_are_described_and_drawn() -> None:
    refused = {}
    for label, (program, x) in foreign().items():
        try:
            found = zoo.describe(program, x)
        except zoo.ZooError as error:
            refused[label] = str(error)
            continue
        assert max(len(row) for row in [*found.table().splitlines(), *found.drawing().splitlines()]) <= 80
        assert len(list(ElementTree.fromstring(found.svg()).iter(f"{SVG}text"))) > len(found.nodes)
    known = {
        "linear_hmm": "LinearHMM.log_prob() is not implemented; use another distribution",
        "funnel_noobs": "got none; pass the data as obs=", "control_flow": "expected the same latent sites in every run"}
    assert refused.keys() == known.keys()
    for label, text in refused.items():
        assert known[label] in text
