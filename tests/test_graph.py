"""Pictures of a plan's network: what is drawn, where it stands, and that other programs can read the text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result

from testbed.cli import main
from testbed.core import wan
from testbed.errors import MachineError
from testbed.graph import draw, layout, of, text
from testbed.graph.sketch import Sketch
from testbed.plan.reader import load_plan, read_plan

REPOSITORY = Path(__file__).parent.parent
KINDS = {
    "full": "full",
    "ring": "ring",
    "star": "star",
    "tree": "tree",
    "torus": "torus",
    "random": "{kind: random, p: 0.6}",
    "clusters": "{kind: clusters, count: 3, inter: {delay: 9ms}}",
    "regions": "{kind: regions, round_trips: wan}",
    "graph": "{kind: graph, switches: [s0, s1], edges: [{between: [0-4, s0], delay: 1ms}, {between: [5-11, s1]},"
    " {between: [s0, s1], back: {loss: 1%}}]}",
}


def sketched(topology: str, *, nodes: int = 12, more: str = "", at: str | None = None) -> Sketch:
    head = f"name: small\nnodes: {{count: {nodes}}}\nalgorithm: {{name: rps, lr: 0.1}}\ntask: {{model: mlp}}\n"
    return of(read_plan(f"{head}network: {{default: {{loss: 10%}}, topology: {topology}}}\n{more}", file="p.yaml"), at)


def labels(sketch: Sketch) -> set[tuple[int, int, str, bool]]:
    return {(each.a, each.b, each.label, each.arrow) for each in sketch.strokes}


# What is drawn --------------------------------------------------------------------------------------------------------


def test_ring_is_drawn_by_its_edges_each_once() -> None:
    assert labels(sketched("ring", nodes=4)) == {(a, b, "loss 10%", False) for a, b in ((0, 1), (1, 2), (2, 3), (0, 3))}


def test_directions_that_differ_are_two_arrows() -> None:
    changed = sketched("ring", nodes=3, more="faults: [{at: 1s, set: {from: 0, to: 1, loss: 20%}}]", at="1s")
    assert labels(changed) == {
        (0, 1, "loss 20%", True),
        (1, 0, "loss 10%", True),
        (1, 2, "loss 10%", False),
        (0, 2, "loss 10%", False),
    }


def test_exceptions_that_are_no_edges_are_drawn_beside_them() -> None:
    head = "name: x\nnodes: {count: 4}\nalgorithm: {name: rps, lr: 1}\ntask: {model: mlp}\n"
    network = "network: {topology: ring, links: [{from: 0, to: 2, both: true, loss: 50%}]}\n"
    sketch = of(read_plan(head + network, file="p.yaml"), None)
    assert (0, 2, "loss 50%", False) in labels(sketch)
    assert len(sketch.strokes) == 5


def test_cuts_are_drawn_when_they_hold() -> None:
    more = "faults: [{at: 5s, isolate: 0, for: 5s}]"
    assert "cut" not in {label for _, _, label, _ in labels(sketched("full", nodes=3, more=more, at="4s"))}
    assert labels(sketched("full", nodes=3, more=more, at="6s")) == {
        (0, 1, "cut", False),
        (0, 2, "cut", False),
        (1, 2, "loss 10%", False),
    }


def test_pairs_that_are_cut_for_good_are_told_and_not_drawn() -> None:
    sketch = sketched("{kind: ring, beyond: cut}", nodes=5)
    assert len(sketch.strokes) == 5
    assert sketch.notes == ("10 ordered pairs that are no neighbours are cut",)  # 20 ordered pairs, 10 of neighbours


def test_groups_are_joined_by_one_band_for_all_their_pairs() -> None:
    sketch = sketched("{kind: clusters, count: 2, inter: {delay: 9ms}}", nodes=6)
    assert sketch.strokes == ()
    bands = {(each.a, each.b, each.label) for each in sketch.bands}
    assert bands == {(0, 0, "loss 10%"), (1, 1, "loss 10%"), (0, 1, "loss 10%, delay 9ms")}


def test_moment_that_is_none_is_a_wrong_plan() -> None:
    answer = run("graph", "topologies/switches.yaml", "--at", "soon")
    assert answer.exit_code == 2
    assert "`--at: soon` is not a time" in answer.output


# Where it stands ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [1, 2, 4, 12, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_places_stand_apart(kind: str, nodes: int) -> None:
    topology = KINDS[kind]
    if kind == "clusters":
        topology = topology.replace("count: 3", f"count: {min(3, nodes)}")
    if kind == "graph":
        edges = "{between: [0, s0]}, {between: [all, s1]}, {between: [s0, s1]}"
        topology = f"{{kind: graph, switches: [s0, s1], edges: [{edges}]}}"
    if kind == "random":
        topology = "{kind: random, p: 1}" if nodes < 12 else "{kind: random, p: 0.6}"
    points = layout.places(sketched(topology, nodes=nodes))
    gaps = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=2)) + 10 * np.eye(len(points))
    assert np.isfinite(points).all()
    assert gaps.min() > 0.55  # a node has a radius of 0.3


def test_torus_stands_in_rows_and_columns() -> None:
    points = layout.places(sketched("{kind: torus, rows: 3, columns: 4}"))
    assert {tuple(np.round(point / 1.4).astype(int)) for point in points} == {
        (c, -r) for r in range(3) for c in range(4)
    }


def test_tree_stands_in_layers_with_parents_above_the_middle_of_their_children() -> None:
    points = layout.places(sketched("tree", nodes=7))
    assert [len(set(points[each, 1])) for each in ([0], [1, 2], [3, 4, 5, 6])] == [1, 1, 1]
    assert points[0, 0] == points[[1, 2], 0].mean()
    assert list(points[[3, 4, 5, 6], 0]) == [0, 1, 2, 3]


# Pictures and text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_svg_holds_every_node_and_is_the_same_every_time(kind: str) -> None:
    sketch = sketched(KINDS[kind])
    data = draw(sketch, "svg")
    texts = {element.text for element in ElementTree.fromstring(data).iter("{http://www.w3.org/2000/svg}text")}
    assert {sketch.place(place) for place in range(12 + len(sketch.switches))} <= texts
    assert data == draw(sketch, "svg")


def test_png_is_a_png() -> None:
    assert draw(sketched("ring"), "png").startswith(b"\x89PNG\r\n\x1a\n")


# Graphviz' grammar (graphviz.org/doc/info/lang.html), as far as the text uses it: every line is one statement.
_ID = r'(?:[a-z_][a-z0-9_]*|"[^"]*")'
_VALUE = rf"{_ID}={_ID}"
_LIST = rf" \[{_VALUE}(?:, {_VALUE})*\]"
_DOT = re.compile(
    rf" *(?:subgraph {_ID} {{|}}|(?:graph|node)(?:{_LIST});|{_VALUE};|{_ID}(?:{_LIST})?;|{_ID} -> {_ID}(?:{_LIST})?;)"
)
_MERMAID = re.compile(
    r'  (?:subgraph g\d+\["[^"]*"\]|end|  n\d+\(\("\d+"\)\)|n\d+\(\("\d+"\)\)|n\d+\["[^"]*"\]'
    r'|[ng]\d+ (?:---|-->|-\.-|-\.->)\|"[^"]*"\| [ng]\d+|%% .*)'
)


@pytest.mark.parametrize("kind", KINDS)
def test_dot_keeps_to_its_grammar(kind: str) -> None:
    sketch = sketched(KINDS[kind], more="faults: [{at: 1s, isolate: 3}]", at="2s")
    lines = [line for line in text.dot(sketch).splitlines() if not line.startswith("//")]
    assert re.fullmatch(rf"digraph {_ID} {{", lines[0])
    assert lines[-1] == "}"
    assert [line for line in lines[1:-1] if not _DOT.fullmatch(line)] == []
    assert sum(line.count("{") for line in lines) == sum(line.count("}") for line in lines)
    named = set(re.findall(r"^ *(n\d+) \[", "\n".join(lines), re.M))
    joined = {name for line in lines for name in re.findall(r"^ *(n\d+) -> (n\d+)", line) for name in name}
    assert joined <= named
    assert len(named) == 12 + len(sketch.switches)


@pytest.mark.parametrize("kind", KINDS)
def test_mermaid_keeps_to_its_grammar(kind: str) -> None:
    sketch = sketched(KINDS[kind], more="faults: [{at: 1s, isolate: 3}]", at="2s")
    lines = text.mermaid(sketch).splitlines()
    assert lines[:4] == ["---", f"title: small, 12 nodes, {kind}", "---", "flowchart LR"]
    assert [line for line in lines[4:] if not _MERMAID.fullmatch(line)] == []
    assert sum("subgraph" in line for line in lines) == sum(line == "  end" for line in lines)


DOCUMENT = (REPOSITORY / "docs" / "topologies.md").read_text()
EXAMPLES = re.findall(r"<!-- picture (\S+) of (\d+) nodes -->\n```yaml\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.mark.parametrize(("name", "nodes", "network"), EXAMPLES, ids=[each[0] for each in EXAMPLES])
def test_pictures_of_the_document_are_those_of_its_examples(name: str, nodes: str, network: str) -> None:
    def texts(svg: bytes) -> list[str | None]:  # not its bytes: those change with matplotlib
        return [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]

    head = f"name: {name}\nnodes: {{count: {nodes}}}\nalgorithm: {{name: rps, lr: 0.1}}\ntask: {{model: mlp}}\n"
    drawn = draw(of(read_plan(head + network, file="docs/topologies.md"), None), "svg")
    kept = REPOSITORY / "docs" / f"topology-{name}.svg"
    assert f"]({kept.name})" in DOCUMENT
    assert texts(kept.read_bytes()) == texts(drawn)


def test_every_kind_of_topology_has_its_picture_in_the_document() -> None:
    assert set(KINDS) <= {name for name, _, _ in EXAMPLES}


def test_round_trips_of_the_document_are_those_of_the_code() -> None:
    columns = [each.strip() for each in re.findall(r"^\| \|(.*)\|$", DOCUMENT, re.M)[0].split("|")]
    rows = {
        each.split("|")[1].strip(): each.split("|")[2:-1] for each in DOCUMENT.splitlines() if each.startswith("| ")
    }
    told = {
        frozenset((a, b)): float(cell) / 1000
        for a in wan.REGIONS[:-1]
        for b, cell in zip(columns, rows[a], strict=True)
        if cell.strip()
    }
    assert told == wan.ROUND_TRIPS_S


# The command ----------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [str(REPOSITORY / each) if each.endswith(".yaml") else each for each in arguments])


@pytest.mark.parametrize("path", sorted((REPOSITORY / "topologies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_plan_that_comes_with_testbed_can_be_drawn(path: Path) -> None:
    plan = load_plan(path)
    if len(plan.nodes) > 100:
        with pytest.raises(MachineError, match="no picture"):
            draw(of(plan, None), "svg")
    else:
        assert b"</svg>" in draw(of(plan, None), "svg")


def test_form_is_that_of_the_name_of_the_output(tmp_path: Path) -> None:
    for name, start in (("a.svg", b"<?xml"), ("a.png", b"\x89PNG"), ("a.dot", b"// switches"), ("a.mmd", b"---")):
        answer = run("graph", "topologies/switches.yaml", "-o", str(tmp_path / name))
        assert answer.exit_code == 0, answer.output
        assert (tmp_path / name).read_bytes().startswith(start)


def test_text_is_printed_where_no_output_is_named() -> None:
    assert "digraph" in run("graph", "topologies/switches.yaml", "--format", "dot").output
    data = json.loads(run("graph", "topologies/switches.yaml", "--json").output)
    assert (data["topology"], data["switches"], len(data["lines"])) == ("graph", ["east", "west"], 8)


def test_output_that_cannot_be_written_is_an_answer(tmp_path: Path) -> None:
    answer = run("graph", "topologies/switches.yaml", "-o", str(tmp_path / "nowhere" / "a.svg"))
    assert answer.exit_code == 3
    assert "cannot be written" in answer.output
