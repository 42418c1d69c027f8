"""What a plan says of its network: the keys of links, in sections and faults, and every kind of topology."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.faults import Change
from testbed.core.links import Link, Pair
from testbed.errors import PlanError
from testbed.plan import Plan
from testbed.plan.pairs import link_texts, show_link
from testbed.plan.reader import read_plan
from testbed.plan.timeline import check_plan, describe
from testbed.plan.warnings import warnings

DEFAULT = "{loss: 10%, delay: 5ms}"


def read(network: str, *, nodes: int = 4, more: str = "") -> Plan:
    text = f"name: small\nnodes: {{count: {nodes}}}\nalgorithm: {{name: rps, lr: 0.1}}\ntask: {{model: mlp}}\n"
    return read_plan(f"{text}network: {network}\n{more}", file="small.yaml")


def links(topology: str, *, nodes: int = 4, default: str = DEFAULT) -> dict[Pair, Link]:
    return dict(read(f"{{default: {default}, topology: {topology}}}", nodes=nodes).network.links.links)


def complaint(network: str, *, nodes: int = 4) -> str:
    with pytest.raises(PlanError) as refused:
        read(network, nodes=nodes)
    (only,) = refused.value.complaints
    return str(only)


# Keys of a link -------------------------------------------------------------------------------------------------------


def test_every_key_of_a_link_fills_its_field() -> None:
    written = (
        "{loss: {loss: 5%, burst: 8}, delay: 20ms, jitter: 2ms, distribution: pareto, duplicate: 1%, reorder: 2%,"
        " corrupt: 0.1%, rate: 10mbit, limit: 50}"
    )
    assert links("full", default=written)[0, 1] == Link(
        loss=0.05, burst=8, delay_s=0.02, jitter_s=0.002, distribution="pareto", duplicate=0.01, reorder=0.02,
        corrupt=0.001, rate_bps=1e7, limit_packets=50,
    )  # fmt: skip


def test_plain_loss_takes_the_bursts_back() -> None:
    plan = read(
        "{default: {loss: {loss: 5%, burst: 8}, limit: 9}, links: [{from: 0, to: 1, loss: 5%, limit: auto}]}",
        more="faults: [{at: 1s, set: {from: 2, to: 3, loss: 7%}}, {at: 2s, set: {from: 2, to: 3, loss: {loss: 9%,"
        " burst: 3}, limit: auto}}]",
    )
    assert plan.network.links.links[0, 1] == Link(loss=0.05)
    assert plan.network.links.links[1, 0] == Link(loss=0.05, burst=8, limit_packets=9)
    effects = [fault.effect for fault in plan.faults]
    assert effects[0] == Change(frozenset({(2, 3)}), (("loss", 0.07), ("burst", None)))
    assert [fault.label for fault in plan.faults] == ["set 2→3: loss 7%", "set 2→3: loss 9% in bursts of 3, limit auto"]
    schedule = plan.schedule()
    schedule.advance(now_s=1.5, step=0)
    assert schedule.link_state().links[2, 3] == Link(loss=0.07, limit_packets=9)
    schedule.advance(now_s=2, step=0)
    assert schedule.link_state().links[2, 3] == Link(loss=0.09, burst=3)


@pytest.mark.parametrize(
    ("loss", "answer"),
    [
        ("{loss: 1%, correlation: 25%}", "correlated loss is refused: it is no rate at all"),
        ("{loss: 90%, burst: 2}", "a loss of 90% cannot come in bursts of 2 packets"),
        ("{loss: 5%, burst: 0.5}", "is not between 1 and 1e+06"),
        ("{loss: 5%}", "needs `burst`"),
        ("[5%]", "is not a share in percent"),
    ],
)
def test_loss_that_cannot_be_is_refused(loss: str, answer: str) -> None:
    with pytest.raises(PlanError, match=r".*") as refused:
        read(f"{{default: {{loss: {loss}}}}}")
    assert any(answer in str(each) for each in refused.value.complaints)


@pytest.mark.parametrize(
    "place",
    ["default: {%s}", "links: [{from: 0, to: 1, %s}]", "topology: {kind: clusters, count: 2, intra: {%s}}"],
)
def test_correlation_is_refused_with_its_reason_wherever_links_are_described(place: str) -> None:
    with pytest.raises(PlanError, match="correlated loss is refused: it is no rate at all"):
        read("{" + place % "loss: 1%, correlation: 25%" + "}")


@st.composite
def any_links(draw: st.DrawFn) -> Link:
    def share() -> float:
        return draw(st.integers(0, 1000)) / 1000

    delay_ms = draw(st.integers(0, 500))
    burst = draw(st.sampled_from([None, 1, 2.5, 8]))
    return Link(
        loss=draw(st.integers(0, 500)) / 1000, burst=burst, delay_s=delay_ms / 1000,
        jitter_s=draw(st.integers(0, delay_ms)) / 1000, distribution=draw(st.sampled_from(["uniform", "normal"])),
        duplicate=share(), reorder=share(), corrupt=share(), rate_bps=draw(st.sampled_from([None, 5e5, 1e9])),
        limit_packets=draw(st.sampled_from([None, 7])),
    )  # fmt: skip


@given(any_links())
def test_what_is_shown_of_a_link_reads_back_as_itself(link: Link) -> None:
    texts = link_texts({name: getattr(link, name) for name in Link.__dataclass_fields__})
    read_back = links("full", default=json.dumps(texts), nodes=2)[0, 1]
    for name in Link.__dataclass_fields__:
        shown, meant = getattr(read_back, name), getattr(link, name)
        assert shown == meant or shown == pytest.approx(meant)


def test_compounded_figures_are_shown_to_six_digits() -> None:
    assert show_link({"loss": 0.264908055, "delay_s": 0.02}) == "loss 26.4908%, delay 20ms"


@pytest.mark.parametrize(
    ("default", "sentence"),
    [
        ("{loss: 1%, reorder: 5%}", "`reorder` does nothing on a link without `delay`"),
        ("{loss: 1%, delay: 5ms, distribution: normal}", "some links that have it have no `jitter`"),
    ],
)
def test_keys_that_do_nothing_earn_a_warning(default: str, sentence: str) -> None:
    (warning,) = warnings(read(f"{{default: {default}}}"))
    assert sentence in warning


def test_downlinks_of_a_group_of_nodes_are_in_the_state_of_the_network() -> None:
    text = "name: d\nnodes: [{count: 2}, {count: 2, downlink: 100mbit}]\nalgorithm: {name: rps, lr: 1}\n"
    plan = read_plan(text + "task: {model: mlp}\n", file="d.yaml")
    assert dict(plan.network.links.downlinks) == {2: 1e8, 3: 1e8}
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert "100mbit from all senders together" in describe(plan)


# Topologies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ring", "star", "tree", "torus", "{kind: random, p: 0.6}"])
def test_neighbours_have_the_default_link_and_others_are_reached_over_hops(kind: str) -> None:
    plan = read(f"{{default: {DEFAULT}, topology: {kind}}}", nodes=9)
    edges = plan.network.topology.edges
    for pair, link in plan.network.links.links.items():
        assert (link == Link(loss=0.1, delay_s=0.005)) == (pair in edges)
        assert link.loss == pytest.approx(1 - 0.9 ** round(link.delay_s / 0.005))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_nodes_beyond_their_neighbours_can_be_cut_for_good() -> None:
    plan = read(
        f"{{default: {DEFAULT}, topology: {{kind: ring, beyond: cut}}}}",
        more="faults: [{at: 1s, isolate: 0}, {at: 2s, heal: true}]",
    )
    opposite = frozenset({(0, 2), (2, 0), (1, 3), (3, 1)})
    assert plan.network.links.cut == opposite
    schedule = plan.schedule()
    schedule.advance(now_s=3, step=0)
    assert schedule.link_state().cut == opposite  # a heal does not join what the plan keeps apart
    assert "topology ring, 4 pairs cut for good" in describe(plan)
    assert check_plan(plan)["links"]["cut"] == 4


def test_exceptions_override_what_the_topology_came_to() -> None:
    plan = read(f"{{default: {DEFAULT}, topology: ring, links: [{{from: 0, to: 2, loss: 0%}}]}}")
    assert plan.network.links.links[0, 2] == Link(delay_s=0.01)  # two hops
    assert plan.network.links.links[2, 0].loss == pytest.approx(0.19)


def test_random_graph_is_fixed_by_the_seed_of_the_plan_or_by_its_own() -> None:
    def edges(own: str, seed: int) -> Any:
        topology = f"{{topology: {{kind: random, p: 0.5{own}}}}}"
        return set(read(topology, nodes=12, more=f"seed: {seed}").network.topology.edges)

    assert edges("", 1) == edges("", 1) != edges("", 2)
    assert edges(", seed: 5", 1) == edges(", seed: 5", 2) == edges("", 5)


def test_clusters_have_links_within_and_between_and_the_default_for_what_these_leave_open() -> None:
    met = links("{kind: clusters, sizes: [1, 3], intra: {delay: 1ms}, inter: {loss: 20%, rate: 1mbit}}")
    assert met[1, 2] == Link(loss=0.1, delay_s=0.001)
    assert met[0, 1] == met[3, 0] == Link(loss=0.2, delay_s=0.005, rate_bps=1e6)
    assert links("{kind: clusters, count: 2, inter: {loss: 1%}}", nodes=5)[2, 3].loss == 0.01  # 0-2 and 3-4


def test_regions_are_half_a_round_trip_apart() -> None:
    met = links(
        "{kind: regions, regions: {paris: 0-1, tokyo: 2, lima: 3}, round_trips: {paris: {tokyo: 220ms, lima: 190ms,"
        " paris: 2ms}, lima: {tokyo: 260ms}}}"
    )
    assert met[0, 2] == met[2, 1] == Link(loss=0.1, delay_s=0.11)
    assert met[2, 3].delay_s == 0.13
    assert met[0, 1].delay_s == 0.001
    inside = links("{kind: regions, regions: {paris: 0-2, tokyo: 3}, round_trips: {paris: {tokyo: 220ms}}}")
    assert inside[0, 1].delay_s == 0.005  # the default's, where no time is given


def test_wan_deals_nodes_out_evenly_or_as_it_is_told() -> None:
    plan = read("{topology: {kind: regions, round_trips: wan}}", nodes=12)
    assert plan.network.topology.groups["dallas"] == (0, 1)
    assert plan.network.topology.groups["sao-paulo"] == (11,)
    # published: Dallas to Toronto 34 ms both ways; London to Tokyo 242 ms
    assert plan.network.links.links[0, 2].delay_s == 0.017
    some = links("{kind: regions, round_trips: wan, regions: {london: 0-2, tokyo: 3}}", default="{}")
    assert some[0, 3].delay_s == 0.121


def test_switches_vanish_into_links_from_end_to_end() -> None:
    met = links(
        "{kind: graph, switches: [s0, s1], edges: [{between: [0-1, s0], delay: 1ms}, {between: [s1, 'node 2'],"
        " delay: 2ms, rate: 1mbit, back: {rate: 2mbit}}, {between: [3, s1]}, {between: [s0, s1], loss: 10%}]}",
        default="{}",
    )
    assert met[0, 1] == Link(delay_s=0.002)
    assert met[0, 2] == Link(loss=0.1, delay_s=0.003, rate_bps=1e6)
    assert met[2, 0] == Link(loss=0.1, delay_s=0.003, rate_bps=2e6)
    assert met[3, 0] == Link(loss=0.1, delay_s=0.001)


@pytest.mark.parametrize(
    ("topology", "answer"),
    [
        ("rign", "`topology: rign` is not known (did you mean `ring`?"),
        ("random", "alone does not say enough (write it like `{kind: random, p: 0.3}`)"),
        ("{kind: star, center: 4}", "`center: 4`: node 4 does not exist (this plan has nodes 0 to 3)"),
        ("{kind: torus, rows: 3}", "a torus of 3 × 1 has 3 nodes, this plan has 4 (2 × 2 would do)"),
        ("{kind: random, p: 0.01}", "node 0 cannot reach nodes 1-3 over any edges (raise `p`, or choose another"),
        ("{kind: clusters, sizes: [2, 3]}", "the sizes of the clusters add up to 5 nodes, this plan has 4"),
        ("{kind: clusters, count: 5}", "4 nodes do not fill so many clusters"),
        ("{kind: clusters, count: 2, sizes: [2, 2]}", "both say how large"),
        ("{kind: regions, round_trips: {a: {b: 1ms}}}", "needs `regions`"),
        ("{kind: regions, round_trips: wan, regions: {london: 0-2, tokio: 3}}", "did you mean `tokyo`?"),
        ("{kind: regions, round_trips: wan, regions: {london: 0-2}}", "node 3 stands in no region"),
        ("{kind: regions, round_trips: wan, regions: {london: 0-2, tokyo: 2-3}}", "node 2 stands in two regions"),
        ("{kind: regions, round_trips: {a: {a: 1ms}}, regions: {a: 0-2, b: 3}}", "no round trip between a and b"),
        ("{kind: regions, round_trips: {a: {b: 1ms}, b: {a: 2ms}}, regions: {a: 0-2, b: 3}}", "twice and differently"),
        ("{kind: graph, switches: [s0], edges: [{between: [0-2, s0]}]}", "node 0 cannot reach node 3 over any edges"),
        ("{kind: graph, switches: [s0], edges: [{between: [all, s1]}]}", "there is no switch `s1`"),
        ("{kind: graph, edges: [{between: [0, 0]}]}", "this edge leads from a place to itself"),
        ("{kind: graph, edges: [{between: [all, all], jitter: 1ms}]}", "the jitter of 1ms exceeds the delay of 0s"),
        ("{kind: graph, switches: [s0, s0], edges: [{between: [all, s0]}]}", "two switches have the same name"),
    ],
)  # fmt: skip
def test_topology_that_cannot_be_is_refused_in_one_sentence(topology: str, answer: str) -> None:
    assert answer in complaint(f"{{topology: {topology}}}")


def test_jitter_of_the_default_may_exceed_a_delay_that_no_link_has() -> None:
    # every pair is in another region, and has a delay of its own
    met = links("{kind: regions, regions: {a: 0, b: 1}, round_trips: {a: {b: 10ms}}}", nodes=2, default="{jitter: 2ms}")
    assert met[0, 1] == Link(delay_s=0.005, jitter_s=0.002)
    wrong = "{kind: regions, regions: {a: 0-2, b: 3}, round_trips: {a: {b: 10ms}}}"
    answer = complaint(f"{{default: {{jitter: 2ms}}, topology: {wrong}}}")
    assert "that the links within a have" in answer


def test_check_lists_groups_of_pairs_and_not_every_pair() -> None:
    clusters = "{kind: clusters, count: 2, inter: {delay: 9ms}}"
    text = describe(read(f"{{default: {{delay: 1ms}}, topology: {clusters}}}", nodes=8))
    assert [line.split()[-4:] for line in text.splitlines()[2:5]] == [
        ["among", "0-3", "delay", "1ms"],
        ["among", "4-7", "delay", "1ms"],
        ["other", "links", "delay", "9ms"],
    ]
    many = describe(read("{topology: {kind: regions, round_trips: wan}}", nodes=10))
    assert "0↔2" in many
    assert "and 20 more" in many


def test_the_plan_as_yaml_and_as_json_is_the_same_network() -> None:
    text = "{default: {loss: {loss: 5%, burst: 8}}, topology: {kind: tree, branching: 3}}"
    assert read(json.dumps(yaml.safe_load(text))).network == read(text).network
