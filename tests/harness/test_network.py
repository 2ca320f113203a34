"""Tests of the lab network: which servers reach each other, and that what happens to a message depends only on its link and
on the seed."""

from __future__ import annotations

import statistics

from raftlab.harness.network import MIN_DELAY, RELIABLE, UNRELIABLE, Conditions, Network


def test_cuts_are_one_way_and_partitions_two_way() -> None:
    net = Network(4, seed=1)
    net.cut(0, 1)
    assert not net.open(0, 1)
    assert net.open(1, 0)
    net.mend(0, 1)
    assert net.open(0, 1)
    net.partition([(0, 1), (2,)])
    assert [(a, b) for a in range(4) for b in range(a + 1, 4) if net.open(a, b)] == [(0, 1)]
    net.disconnect(1)
    assert not net.open(0, 1)
    assert net.open(1, 1)
    net.heal()
    assert all(net.open(a, b) for a in range(4) for b in range(4))


def test_a_server_in_no_group_is_isolated() -> None:
    net = Network(5, seed=1)
    net.partition([(0, 1), (2,)])
    reached = [(a, b) for a in range(5) for b in range(5) if a != b and net.open(a, b)]
    assert reached == [(0, 1), (1, 0)]  # servers 3 and 4, which are in no group, reach nobody, not even each other


def test_no_message_is_faster_than_the_minimum_delay() -> None:
    """The simulator lets a server run ahead of the others by this delay, so no message may arrive sooner."""
    net = Network(2, seed=1)
    net.conditions = Conditions(latency=(0.0, 0.0))
    assert net.request_delays(0, 1) == [MIN_DELAY]
    assert net.reply_delays(0, 1) == [MIN_DELAY]
    net.conditions = Conditions(latency=(0.0, 0.0), duplicate=1.0, echo=0.0)
    first, second = net.request_delays(0, 1)
    assert first == MIN_DELAY
    assert second <= 2 * MIN_DELAY
    net.long_waits = False
    # With so many draws, some are below the minimum delay, so that the lower bound is tested.
    assert min(net.give_up_after(0, 1) for _ in range(2000)) == MIN_DELAY
    assert min(net.loss_noticed_after(0, 1) for _ in range(2000)) == MIN_DELAY


def test_losses_and_delays_are_those_of_the_6_824_lab() -> None:
    net = Network(2, seed=7)
    net.conditions = UNRELIABLE
    copies = [net.request_delays(0, 1) for _ in range(5000)]
    lost = sum(not delays for delays in copies) / 5000
    delays = [delays[0] for delays in copies if delays]
    assert 0.08 < lost < 0.12
    assert min(delays) >= MIN_DELAY
    assert max(delays) <= 0.026 + RELIABLE.latency[1]
    waits = [net.give_up_after(0, 1) for _ in range(2000)]
    assert 3.2 < statistics.mean(waits) < 3.8
    assert max(waits) <= 7.0
    net.long_waits = False
    assert max(net.give_up_after(0, 1) for _ in range(500)) <= 0.1
    net.conditions = Conditions(reorder_reply=2 / 3)
    late = [delay for (delay,) in (net.reply_delays(1, 0) for _ in range(3000)) if delay > 0.2]
    assert 0.62 < len(late) / 3000 < 0.71
    assert max(late) <= 0.2 + 2.2 + RELIABLE.latency[1]


def test_duplicates_come_later() -> None:
    net = Network(2, seed=3)
    net.conditions = Conditions(duplicate=1.0)
    for _ in range(100):
        first, second = net.request_delays(0, 1)
        assert MIN_DELAY <= first < second


def test_an_additional_message_on_one_link_changes_nothing_on_another() -> None:
    quiet, busy = Network(3, seed=9), Network(3, seed=9)
    for net in (quiet, busy):
        net.conditions = UNRELIABLE
    for _ in range(50):
        busy.request_delays(0, 1)
    assert [quiet.request_delays(0, 2) for _ in range(50)] == [busy.request_delays(0, 2) for _ in range(50)]


def test_a_link_may_have_conditions_of_its_own() -> None:
    net = Network(2, seed=1)
    net.set_link(0, 1, lose_request=1.0)
    assert net.request_delays(0, 1) == []
    assert len(net.request_delays(1, 0)) == 1
