"""Clusters of nodes: registers that they share, through crashes and cuts, and what a plan says of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from testbed.algorithms.mdaa import mdaa
from testbed.channels.memory import Memory
from testbed.channels.registers import Register
from testbed.core.faults import Cut, Fault, Moment
from testbed.core.partitions import split
from testbed.core.quorums import Clusters
from testbed.journal import read_journal
from testbed.plan.clusters import clusters_of
from testbed.plan.model import Plan
from testbed.plan.reader import read_plan
from testbed.plan.timeline import check_plan, describe
from testbed.plan.warnings import warnings
from testbed.runfolder import RunFolder
from testbed.runtime.containers import register_folders, register_volumes, volume_specifications
from testbed.simulate import simulate
from testbed.simulate.memory import Registers
from testbed.simulate.run import run_algorithm, uniform_links

PLAN = """
name: clusters
nodes: {nodes}
clusters: ["0-1", "3,4"]
algorithm: {{name: {algorithm}, lr: 0.1}}
task: {{model: quadratic, dimension: 2}}
{more}
"""


def plan(nodes="{count: 5}", algorithm="mdaa", more=""):
    return read_plan(PLAN.format(nodes=nodes, algorithm=algorithm, more=more), file="plan.yaml")


# What a plan says


def test_nodes_of_a_group_are_one_cluster_and_the_rest_are_alone():
    assert [each.nodes for each in clusters_of(plan())] == [(0, 1), (2,), (3, 4)]
    assert plan().rank_clusters.cluster_of == (0, 0, 1, 2, 2)


def test_nodes_with_several_ranks_bring_them_all_along():
    several = plan("[{count: 2, ranks: 2}, {count: 3}]")
    assert [each.ranks for each in clusters_of(several)] == [(0, 1, 2, 3), (4,), (5, 6)]


def test_clusters_are_numbered_by_their_first_node():
    assert Clusters.of_nodes([0, 1, 2, 3], [(1, 3)]).cluster_of == (0, 1, 2, 1)


def test_ranks_read_the_clusters_that_the_plan_wrote():
    written = plan(more="registers: nvm")
    assert Plan.from_json(json.loads(json.dumps(written.to_json()))) == written


def test_check_says_who_shares_and_what_a_quorum_is():
    said = describe(plan())
    # a majority of five ranks are three
    assert "ranks 0,1 | 3,4 share registers, 1 rank alone" in said
    assert "a quorum represents 3 of 5 ranks; a message represents the whole cluster of its sender" in said
    assert "lost when all nodes of a cluster are down together" in said
    assert "outlast every crash" in describe(plan(more="registers: nvm"))
    row = check_plan(plan(more="registers: nvm"))["clusters"]
    assert row["clusters"] == [{"nodes": n, "ranks": n} for n in ("0,1", "2", "3,4")]
    assert row["registers"] == "nvm"


def test_whoever_has_no_registers_is_told_that_clusters_change_nothing():
    assert "rps has no registers: `clusters` changes nothing" in warnings(plan(algorithm="rps"))
    assert check_plan(plan(algorithm="rps"))["clusters"] is None


def test_a_majority_is_spoken_for_while_a_node_of_each_cluster_is_up():
    """Nodes 1, 2 and 4 are down: two of five are up, and represent four."""
    down = 'faults: [{at: 1s, crash: {node: "1,2,4"}, for: 1s}]'
    assert not [each for each in warnings(plan(more=down)) if "no majority" in each]
    down = 'faults: [{at: 1s, crash: {node: "0-2"}, for: 1s}]'  # nodes 3 and 4 are one cluster: two of five
    assert [each for each in warnings(plan(more=down)) if "2 of 5 ranks are up and awake: no majority" in each]


# What registers outlast


def test_memory_of_a_cluster_lasts_while_one_of_its_nodes_is_up():
    registers = Registers(Clusters((0, 0, 1)), [0, 1, 2])
    for rank in range(3):
        registers.write(rank, ((1, 1), 1), np.zeros(2))
    registers.lose({0})
    assert registers.read(0) is not None, "node 1 is up and holds it"
    registers.lose({2})
    assert registers.read(2) is None
    registers.lose({0, 1})
    assert registers.read(0) is None
    assert registers.read(1) is None


def test_registers_on_the_volume_outlast_everything():
    registers = Registers(Clusters((0, 0, 1)), [0, 1, 2], durable=True)
    registers.write(1, ((1, 1), 1), np.ones(2))
    registers.lose({0, 1, 2})
    assert registers.read(1) is not None


class Forgetful:
    """A store that keeps nothing; not what is asked about here."""

    def keep_register(self, place, value):
        pass


def test_a_register_on_the_volume_is_flushed_before_its_write_counts(tmp_path, monkeypatch):
    flushed = []
    write = Register.write

    def watched(self, value, stamp=(), *, durable=False):
        write(self, value, stamp, durable=durable)
        flushed.append((self.path.parent.name, durable))

    monkeypatch.setattr(Register, "write", watched)
    for durable in (False, True):
        folder = tmp_path / str(durable)
        with Memory(folder / "registers", Forgetful(), rank=0, mates=[0, 1], width=2, durable=durable) as memory:
            memory.write(((0, 1), 1), np.ones(2, np.float32))
    assert flushed == [("registers", False), ("registers", True)]


def test_containers_share_memory_by_clusters_and_the_volume_takes_its_place():
    shared = register_volumes(plan(), "run")
    assert shared == {node: f"testbed-run-registers-{first}" for node, first in ((0, 0), (1, 0), (3, 3), (4, 3))}
    folders = register_folders(plan())
    assert [folders[node] for node in (0, 1, 3, 4)] == ["/testbed/registers"] * 4
    assert folders[2] == "/dev/shm/testbed", "a node that is alone has its own"
    (first, second) = volume_specifications(plan(), run="run", marks={}, user="1000:100")
    assert (first.name, second.name) == ("testbed-run-registers-0", "testbed-run-registers-3")
    assert (first.uid, first.gid) == (1000, 100)
    durable = plan(more="registers: nvm")
    assert register_volumes(durable, "run") == {}
    assert register_folders(durable) == ("/testbed/run/registers",) * 5


# What the network cannot cut


class Sides:
    """½|x − o|², and the optimum o of even ranks is 1, of odd ranks −1."""

    def start(self):
        return np.zeros(2, np.float32)

    def gradients(self, ranks, X, draws):
        optima = np.array([[1.0 if rank % 2 == 0 else -1.0] for rank in ranks], np.float32)
        return (X - optima).astype(np.float32), ((X - optima) ** 2).sum(axis=1) / 2


def cut_in_two(**parameters):
    """Nodes 0 and 2 do not hear nodes 1 and 3 from 0.5 s to 5.5 s."""
    cut = Fault(Moment(at_s=0.5), Cut(split([[0, 2], [1, 3]])), "cut", for_s=5)
    links = uniform_links(4, delay_s=0.005, jitter_s=0.002)
    outcome = run_algorithm(mdaa, Sides(), links=links, faults=[cut], steps=400, lr=0.1, **parameters)
    during = [len([r for r in outcome.events(rank, "step") if 0.6 < r["at_s"] < 5.4]) for rank in range(4)]
    return outcome, during


def test_a_message_represents_its_whole_cluster():
    """A step takes 10 ms and two exchanges of at most 6 ms: at least 200 of them in 4.8 s. Two of four single ranks are
    no majority; of two clusters of two nodes each, one node of each is."""
    _, alone = cut_in_two()
    assert alone == [0, 0, 0, 0]
    _, during = cut_in_two(clusters=[(0, 1), (2, 3)], cluster_rounds=1)  # registers left alone
    assert min(during) > 200


def test_registers_join_what_the_network_has_cut():
    """Left to itself each side goes to its own optimum, 2 apart. Through registers they stay together."""
    apart, _ = cut_in_two(clusters=[(0, 1), (2, 3)], cluster_rounds=1)
    joined, during = cut_in_two(clusters=[(0, 1), (2, 3)], cluster_rounds=2)
    at = 100  # steps, of which the first 25 were before the cut
    assert np.ptp(apart.history[at, :, 0]) > 1.9
    assert np.ptp(joined.history[at, :, 0]) < 0.1
    assert max(during) > 200, "the side that is ahead never waits for the other"


@pytest.mark.parametrize("registers", ["memory", "nvm"])
def test_a_simulation_knows_the_clusters_of_its_plan(registers, tmp_path):
    faults = '[{at: 100ms, partition: ["0,2,3", "1,4"], for: 1s}]'
    several = plan(more=f"run: {{steps: 30}}\nregisters: {registers}\nfaults: {faults}")
    simulate(several, tmp_path)
    # nodes 1 and 4 alone speak for four of five ranks
    for rank in (1, 4):
        lines = read_journal(RunFolder(tmp_path).journal(rank))
        assert [line for line in lines if line["event"] == "step" and 0.2 < line["at_s"] < 1]
