"""Messages to one peer arrive in order, once, however often the connection breaks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from testbed.channels.outbox import Intake, Outbox


def test_no_more_than_the_window_is_on_its_way():
    outbox = Outbox(limit=10, window=2)
    for message in "abc":
        outbox.put(message)
    assert outbox.next() == (1, "a")
    outbox.sent(1)
    assert outbox.next() == (2, "b")
    outbox.sent(2)
    assert outbox.next() is None
    assert outbox.acknowledged(1)
    assert outbox.next() == (3, "c")
    assert not outbox.acknowledged(1)


def test_what_was_not_acknowledged_is_sent_again_from_the_first_on():
    outbox = Outbox(limit=10, window=5)
    for number, message in enumerate("abc", 1):
        outbox.put(message)
        outbox.sent(number)
    outbox.acknowledged(1)
    assert outbox.on_the_way == 2
    outbox.again()
    assert outbox.on_the_way == 0
    assert outbox.next() == (2, "b")


def test_a_full_queue_drops_the_oldest_and_counts_it():
    outbox, intake = Outbox(limit=2, window=5), Intake()
    for message in "abcd":
        outbox.put(message)
    assert (outbox.dropped, outbox.oldest, outbox.next()) == (2, 3, (3, "c"))
    assert intake.takes(3, outbox.oldest)  # 1 and 2 will never come: the sender says so
    assert not intake.takes(5, outbox.oldest)  # 4 is still to come
    assert intake.takes(4, outbox.oldest)


def test_a_peer_that_came_back_is_told_the_newest_again():
    outbox = Outbox(limit=10, window=5)
    for number, message in enumerate("abc", 1):
        outbox.put(message)
        outbox.sent(number)
    outbox.acknowledged(2)
    outbox.begin_anew()
    # c was never acknowledged; b was, by the process that died
    again = []
    while (following := outbox.next()) is not None:
        again.append(following[1])
        outbox.sent(following[0])
    assert sorted(again) == ["b", "c"]


@given(st.lists(st.sampled_from(["put", "send", "lose", "acknowledge", "break"]), max_size=200), st.integers(1, 6))
def test_whatever_breaks_messages_arrive_once_and_in_order_but_for_those_dropped(events, limit):
    """A connection is a queue that a break empties; `lose` drops an acknowledgement."""
    outbox, intake = Outbox(limit=limit, window=3), Intake()
    told, arrived, wire, acknowledgements = 0, [], [], []
    for event in [*events, "break", *["send", "acknowledge"] * 20]:
        if event == "put":
            told += 1
            outbox.put(told)
        elif event == "send" and (following := outbox.next()) is not None:
            outbox.sent(following[0])
            wire.append((*following, outbox.oldest))
        elif event == "lose" and acknowledgements:
            acknowledgements.pop()
        elif event == "acknowledge":
            for number, message, oldest in wire:
                if intake.takes(number, oldest):
                    arrived.append(message)
                acknowledgements.append(intake.last)
            wire.clear()
            for number in acknowledgements:
                outbox.acknowledged(number)
            acknowledgements.clear()
            if event == events[-1:]:
                outbox.again()
        elif event == "break":
            wire.clear()
            acknowledgements.clear()
            outbox.again()
    assert arrived == sorted(set(arrived))
    assert outbox.empty
    assert told - outbox.dropped <= len(arrived) <= told
