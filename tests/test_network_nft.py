"""The rules as commands: what is sent for a change, and that nothing else is."""

import pytest

from testbed.core.links import Link, LinkState, all_pairs
from testbed.network.nft import Drops, Rules, remove, runs, table_name

RULES = Rules("r1", ["10.0.0.1", "10.0.0.2", "10.0.0.3"])


def verbs(commands):
    """[("add", "chain", "loss_5"), ...]: the verb, the kind, and the name."""
    return [
        (verb, kind, what.get("name", what.get("chain")))
        for command in commands
        for verb, item in command.items()
        for kind, what in item.items()
    ]


def elements(commands, verb, name):
    return [
        element
        for command in commands
        for element in command.get(verb, {}).get("element", {}).get("elem", [])
        if command[verb]["element"]["name"] == name
    ]


def key(a, b):
    return {"concat": [RULES.addresses[a], RULES.addresses[b]]}


def test_drops_are_the_cuts_and_the_losses_in_millionths():
    state = LinkState.uniform(2).changed([(0, 1)], {"loss": 0.001}).with_cut([(1, 0)])
    assert Drops.of(state) == Drops(frozenset({(1, 0)}), {(0, 1): 1000})
    assert Drops.of(state, netem=True) == Drops(frozenset({(1, 0)}))


def test_every_pair_has_counters_of_its_own():
    names = [name for verb, kind, name in verbs(RULES.create(all_pairs(3))) if kind == "counter"]
    assert len(names) == len(set(names)) == 2 * 6  # seen and dropped, 3 * 2 ordered pairs


def test_creating_replaces_what_an_earlier_agent_of_the_run_left():
    assert verbs(RULES.create([]))[:3] == [(verb, "table", "testbed_r1") for verb in ("add", "delete", "add")]


def test_a_packet_is_counted_before_it_is_cut_and_cut_before_it_is_lost():
    rules = [c["add"]["rule"] for c in RULES.create([]) if "rule" in c.get("add", {})]
    forward = [rule["expr"] for rule in rules if rule["chain"] == "forward"]
    assert forward[0][0]["counter"]["map"]["data"] == "@seen"
    assert forward[1][0]["match"]["right"] == "@cut"
    assert forward[2][0]["vmap"]["data"] == "@loss"


def test_nothing_changes_nothing():
    drops = Drops(frozenset({(0, 1)}), {(1, 0): 5})
    assert RULES.change(drops, drops) == []


def test_a_partition_is_one_command_over_all_its_pairs():
    commands = RULES.change(Drops(), Drops(frozenset({(0, 1), (1, 0)})))
    assert len(commands) == 1
    assert elements(commands, "add", "cut") == [key(0, 1), key(1, 0)]


def test_a_heal_takes_out_what_the_partition_put_in():
    commands = RULES.change(Drops(frozenset({(0, 1), (1, 0)})), Drops(frozenset({(1, 0)})))
    assert elements(commands, "delete", "cut") == [key(0, 1)]
    assert elements(commands, "add", "cut") == []


def test_a_changed_loss_touches_its_pair_alone():
    old = Drops(losses={(0, 1): 100, (0, 2): 100})
    commands = RULES.change(old, Drops(losses={(0, 1): 100, (0, 2): 300}))
    assert elements(commands, "delete", "loss") == [[key(0, 2), {"goto": {"target": "loss_100"}}]]
    assert elements(commands, "add", "loss") == [[key(0, 2), {"goto": {"target": "loss_300"}}]]


def test_pairs_of_one_loss_share_a_chain_which_goes_with_the_last_of_them():
    one, two = Drops(losses={(0, 1): 7}), Drops(losses={(0, 1): 7, (1, 0): 7})
    assert ("add", "chain", "loss_7") not in verbs(RULES.change(one, two))
    assert ("delete", "chain", "loss_7") not in verbs(RULES.change(two, one))
    assert verbs(RULES.change(one, Drops()))[-1] == ("delete", "chain", "loss_7")


def test_what_is_sent_is_read_back():
    drops = Drops(frozenset({(2, 0)}), {(0, 1): 1, (1, 2): 1_000_000})
    sent = [command["add"] for command in RULES.change(Drops(), drops)]
    # nft shows elements inside their set, and everything else as it was added
    shown = [item for item in sent if "element" not in item]
    shown += [
        {kind: {"name": name, "elem": elements([{"add": item} for item in sent], "add", name)}}
        for kind, name in (("set", "cut"), ("map", "loss"))
    ]
    assert RULES.read(shown) == drops


def test_an_empty_table_reads_as_no_drops():
    assert RULES.read([{"set": {"name": "cut"}}, {"map": {"name": "loss"}}]) == Drops()


def test_counters_are_read_by_pair():
    shown = [{"metainfo": {}}, {"counter": {"name": "seen_0_12", "packets": 9}}]
    assert RULES.read_counters(shown)["seen"] == {(0, 12): 9}


def test_only_our_tables_in_our_family_are_runs():
    tables = [("bridge", "testbed_b"), ("bridge", "testbed_a"), ("bridge", "other"), ("inet", "testbed_c")]
    assert runs([{"table": {"family": family, "name": name}} for family, name in tables]) == ["a", "b"]


def test_removing_what_is_not_there_is_no_error():
    assert verbs(remove("testbed_x")) == [("add", "table", "testbed_x"), ("delete", "table", "testbed_x")]


@pytest.mark.parametrize("run", ["", "a b", "a{", "x" * 101])
def test_a_name_that_nft_cannot_hold_is_refused(run):
    with pytest.raises(ValueError, match="no name for a run"):
        table_name(run)


def test_a_link_without_loss_has_no_dice_to_throw():
    assert Drops.of(LinkState.uniform(3, Link(rate_bps=1e6))) == Drops()
