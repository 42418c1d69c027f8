"""Where places stand in a picture, in units of about the distance of neighbours. Pure, and the same every time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from testbed.core.links import Pair
from testbed.core.topologies import Neighbours, distances, neighbours
from testbed.graph.sketch import Sketch

Points = np.ndarray  # [places, 2]


def places(sketch: Sketch) -> Points:
    """x and y of every place, [places, 2]."""
    count = sketch.size + len(sketch.switches)
    if sketch.groups:
        return _in_groups(sketch)
    graph = neighbours(count, sketch.edges)
    if sketch.kind == "star":
        return _star(graph)
    if sketch.kind == "tree":
        return _tree(graph)
    if sketch.kind == "torus" and torus_columns(graph) > 1:
        columns = torus_columns(graph)
        return 1.4 * np.array([(node % columns, -(node // columns)) for node in range(count)], dtype=float)
    if sketch.kind in ("random", "graph"):
        return _by_distance(graph)
    return circle(count, spacing=1.0 if count > 16 else 1.7)


def circle(count: int, *, spacing: float = 1.0) -> Points:
    """Clockwise from the top, neighbours `spacing` apart."""
    radius = 0.0 if count < 2 else spacing / (2 * math.sin(math.pi / count))
    angles = math.pi / 2 - 2 * math.pi * np.arange(count) / max(count, 1)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def torus_columns(graph: Neighbours) -> int:
    """Of a torus: the highest neighbour of node 0 stands in the last row, right above it."""
    return len(graph) - max(graph[0], default=0)


def _star(graph: Neighbours) -> Points:
    center = max(range(len(graph)), key=lambda node: (len(graph[node]), -node))
    points = np.zeros((len(graph), 2))
    around = circle(len(graph) - 1)
    if len(around) == 1:
        around = np.array([[0.0, 1.0]])
    radius = float(np.abs(around).max(initial=0.0)) or 1.0
    points[[node for node in range(len(graph)) if node != center]] = around * max(1.0, 2 / radius)
    return points


def _tree(graph: Neighbours) -> Points:
    """Leaves side by side, the others above the middle of their children."""
    depth = distances(graph)[0]
    points = np.zeros((len(graph), 2))
    leaves = 0.0
    for node in _depth_first(graph):
        below = [child for child in graph[node] if depth[child] > depth[node]]
        if below:
            points[node] = points[below, 0].mean(), 0.0
        else:
            points[node, 0], leaves = leaves, leaves + 1
    points[:, 1] = -depth * max(1.2, leaves / 10)
    return points


def _depth_first(graph: Neighbours) -> list[int]:
    """Children before their parents, from left to right."""
    order: list[int] = []
    ahead = [(0, -1)]
    while ahead:
        node, parent = ahead.pop()
        order.append(node)
        ahead += [(child, node) for child in graph[node] if child != parent]
    return order[::-1]


def _by_distance(graph: Neighbours) -> Points:
    """As far apart as there are hops between, as well as a plane allows: stress majorization (Gansner, Koren and North,
    Graph Drawing 2004), from a circle."""
    hops = distances(graph).astype(float)
    hops[hops < 0] = hops.max() + 1
    count = len(graph)
    weights = np.divide(1.0, hops**2, out=np.zeros_like(hops), where=hops > 0)
    laplacian = np.diag(weights.sum(axis=1)) - weights
    inverse = np.linalg.pinv(laplacian)
    points = circle(count) + 1e-3 * np.random.default_rng(0).normal(size=(count, 2))  # off every symmetric saddle
    for _ in range(300):
        gaps = points[:, None] - points[None, :]
        lengths = np.sqrt((gaps**2).sum(axis=2))
        pull = np.divide(weights * hops, lengths, out=np.zeros_like(lengths), where=lengths > 1e-9)
        points = inverse @ ((np.diag(pull.sum(axis=1)) - pull) @ points)
    lengths = np.sqrt(((points[:, None] - points[None, :]) ** 2).sum(axis=2)) + 1e9 * np.eye(count)
    return points * min(8.0, max(1.7, 0.75 / float(lengths.min(initial=1e9))))  # so that no two nodes overlap


# Groups ---------------------------------------------------------------------------------------------------------------


def group_radius(nodes: Sequence[int]) -> float:
    """Of the disc that a group's nodes stand on."""
    return 0.45 if len(nodes) == 1 else 0.5 / math.sin(math.pi / len(nodes)) * 0.8 + 0.4


def group_centers(sketch: Sketch) -> Points:
    """[groups, 2]: on a circle, so that no two discs touch."""
    radii = [group_radius(nodes) for nodes in sketch.groups.values()]
    centers = circle(len(radii), spacing=2 * max(radii) + (1.2 if len(radii) > 2 else 2.0))
    return centers if len(radii) != 2 else centers[:, ::-1] * [-1, 1]  # two stand side by side


def _in_groups(sketch: Sketch) -> Points:
    points = np.zeros((sketch.size, 2))
    for center, nodes in zip(group_centers(sketch), sketch.groups.values(), strict=True):
        points[list(nodes)] = center + circle(len(nodes), spacing=0.8)
    return points


def borders(points: Points, edges: Sequence[Pair], columns: int) -> list[tuple[int, int]]:
    """Of a torus: the edges that lead around, from the last row or column back to the first."""
    rows = len(points) // columns
    return [
        (a, b)
        for a, b in edges
        if (rows > 2 and b - a == (rows - 1) * columns) or (columns > 2 and a // columns == b // columns and b - a > 1)
    ]
