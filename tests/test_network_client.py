"""The supervisor's side of the agent: what it says, and what it makes of silence, death and refusal."""

import io
import json
import os

import pytest

from testbed.core.links import LinkState
from testbed.errors import BringUpError, MachineError, NetworkError
from testbed.network.client import AgentClient
from testbed.network.count import PairCount
from testbed.network.readback import Applied

STATE = LinkState.uniform(2)


def client_that_hears(*answers):
    """A client whose agent has said `answers` (the ids count up from 1), and then ended; what the client sends."""
    sent = io.BytesIO()
    lines = b"".join(json.dumps({"id": number + 1, **answer}).encode() + b"\n" for number, answer in enumerate(answers))
    return AgentClient(io.BytesIO(lines), sent), sent


def test_requests_are_numbered_lines():
    client, sent = client_that_hears({"ok": True, "name": "veth1"}, {"ok": True, "took_s": 0.5, "wrong": ["x"]})
    assert client.attach(1, 42) == "veth1"
    assert client.apply(STATE) == Applied(0.5, ("x",))
    assert [json.loads(line) for line in sent.getvalue().splitlines()] == [
        {"id": 1, "do": "attach", "node": 1, "interface": 42},
        {"id": 2, "do": "apply", "state": STATE.to_json()},
    ]


def test_counters_come_by_pair():
    row = {"from": 0, "to": 1, "seen": 10, "dropped": 3, "overflow": 1}
    client, _ = client_that_hears({"ok": True, "pairs": [row]})
    (count,) = client.counters()
    assert count == PairCount((0, 1), seen=10, dropped=3, overflow=1)
    assert count.to_json() == row


def test_what_the_machine_cannot_do_keeps_its_remedy():
    error = {"kind": "machine", "message": "no sch_netem", "remedy": "install it"}
    client, _ = client_that_hears({"ok": False, "error": error})
    with pytest.raises(MachineError, match="no sch_netem") as caught:
        client.open("r", backend="auto", addresses=["10.0.0.1", "10.0.0.2"], state=STATE)
    assert caught.value.remedy == "install it"


def test_a_bug_in_the_agent_keeps_its_traceback():
    client, _ = client_that_hears({"ok": False, "error": {"kind": "bug", "message": "Traceback ...", "remedy": None}})
    with pytest.raises(RuntimeError, match="Traceback"):
        client.close()


def test_an_agent_that_ends_early_is_a_failed_bring_up_and_stays_one():
    client, _ = client_that_hears()
    for _ in range(2):
        with pytest.raises(BringUpError, match="ended before it answered `probe`"):
            client.probe()


def test_an_agent_that_ends_later_leaves_a_network_that_nobody_knows():
    client, _ = client_that_hears({"ok": True, "took_s": 0.0, "wrong": []})
    client.apply(STATE)
    with pytest.raises(NetworkError, match="ended before it answered `counters`"):
        client.counters()


def test_silence_is_told_with_its_deadline_and_a_late_answer_is_not_taken_for_the_next():
    reading, writing = os.pipe()
    with open(reading, "rb") as answers, open(writing, "wb", buffering=0) as agent:
        client = AgentClient(answers, io.BytesIO(), deadline_s=0.01)
        with pytest.raises(BringUpError, match=r"did not answer `attach` within 0\.01 s"):
            client.attach(0, "veth0")
        agent.write(b'{"id": 1, "ok": true, "name": "late"}\n{"id": 2, "ok": true, "name": "in time"}\n')
        client.deadline_s = 10
        assert client.attach(0, "veth0") == "in time"
        agent.close()  # before its reader, which would wait for it otherwise


def test_a_closed_stream_is_a_lost_agent():
    requests = io.BytesIO()
    requests.close()
    client = AgentClient(io.BytesIO(), requests)
    with pytest.raises(BringUpError, match="`probe` could not be sent"):
        client.probe()
