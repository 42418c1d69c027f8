"""A sketch as text that other programs draw: mermaid (flowchart) and Graphviz' dot."""

from __future__ import annotations

from testbed.graph.sketch import Sketch, Stroke


def mermaid(sketch: Sketch) -> str:
    """A flowchart. Text in quotes may hold anything but quotes, and ours holds none."""
    lines = ["---", f"title: {_title(sketch)}", "---", "flowchart LR"]
    for index, (name, nodes) in enumerate(sketch.groups.items()):
        lines.append(f'  subgraph g{index}["{_with_inside(sketch, index, name)}"]')
        lines += [f'    n{node}(("{node}"))' for node in nodes]
        lines.append("  end")
    if not sketch.groups:
        lines += [f'  n{node}(("{node}"))' for node in range(sketch.size)]
    lines += [f'  n{sketch.size + index}["{name}"]' for index, name in enumerate(sketch.switches)]
    for letter, strokes in (("g", _between(sketch)), ("n", sketch.strokes)):
        for stroke in strokes:
            shaft = ("-.->" if stroke.arrow else "-.-") if stroke.link is None else "-->" if stroke.arrow else "---"
            lines.append(f'  {letter}{stroke.a} {shaft}|"{stroke.label}"| {letter}{stroke.b}')
    lines += [f"  %% {note}" for note in sketch.notes]
    return "\n".join(lines) + "\n"


def dot(sketch: Sketch) -> str:
    """A digraph whose lines without an arrow hold for both directions."""
    lines = [f"// {_title(sketch)}", *(f"// {note}" for note in sketch.notes)]
    lines += [f'digraph "{sketch.name}" {{', "  graph [compound=true];", "  node [shape=circle];"]
    for index, (name, nodes) in enumerate(sketch.groups.items()):
        lines.append(f"  subgraph cluster_{index} {{")
        lines.append(f'    label="{_with_inside(sketch, index, name)}";')
        lines += [f'    n{node} [label="{node}"];' for node in nodes]
        lines.append("  }")
    if not sketch.groups:
        lines += [f'  n{node} [label="{node}"];' for node in range(sketch.size)]
    for index, name in enumerate(sketch.switches):
        lines.append(f'  n{sketch.size + index} [label="{name}", shape=box];')
    groups = list(sketch.groups.values())
    for stroke in _between(sketch):
        ends = f", ltail=cluster_{stroke.a}, lhead=cluster_{stroke.b}"
        lines.append(f"  n{groups[stroke.a][0]} -> n{groups[stroke.b][0]} [{_attributes(stroke)}{ends}];")
    lines += [f"  n{stroke.a} -> n{stroke.b} [{_attributes(stroke)}];" for stroke in sketch.strokes]
    return "\n".join([*lines, "}"]) + "\n"


def _attributes(stroke: Stroke) -> str:
    parts = [f'label="{stroke.label}"']
    parts += [] if stroke.arrow else ["dir=none"]
    parts += ["style=dashed"] if stroke.link is None else []
    return ", ".join(parts)


def _title(sketch: Sketch) -> str:
    return f"{sketch.name}, {sketch.size} nodes, {sketch.kind}"


def _between(sketch: Sketch) -> list[Stroke]:
    return [band for band in sketch.bands if band.a != band.b]


def _with_inside(sketch: Sketch, index: int, name: str) -> str:
    """A group's name, and what links within it do."""
    inside = [band.label for band in sketch.bands if band.a == band.b == index]
    return f"{name} (within: {inside[0]})" if inside else name
