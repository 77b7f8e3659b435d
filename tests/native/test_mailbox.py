"""Mailboxes: nothing lost, nothing twice, in order, bounded, and no wake-up missed."""

from __future__ import annotations

import os
import threading
from collections import deque

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway._native.mailbox import Mailbox, pump


def need(size: int) -> int:
    return 8 + (size + 7) // 8 * 8


class MailboxAgainstDeque(RuleBasedStateMachine):
    CAPACITY = 256

    def __init__(self) -> None:
        super().__init__()
        self.box = Mailbox(self.CAPACITY)
        self.hidden: deque[bytes] = deque()
        self.shown: deque[bytes] = deque()

    @rule(data=st.binary(min_size=0, max_size=100))
    def push(self, data: bytes) -> None:
        sizes = [need(len(d)) for d in [*self.hidden, *self.shown]]
        if self.box.push(data):
            self.hidden.append(data)
        else:
            # Full is full: what one record, this or one that waits, did not fit into is lost at the end of the ring.
            largest = max([need(len(data)), *sizes])
            assert sum(sizes) + need(len(data)) + largest - 8 > self.CAPACITY

    @rule()
    def publish(self) -> None:
        self.box.publish()
        self.shown += self.hidden
        self.hidden.clear()

    @rule(limit=st.integers(0, 5))
    def drain(self, limit: int) -> None:
        got = self.box.drain(limit)
        assert got == [self.shown.popleft() for _ in range(min(limit, len(self.shown)))]

    @rule()
    def sleep(self) -> None:
        assert self.box.sleep() == bool(self.shown)

    @invariant()
    def room_never_lies(self) -> None:
        assert 0 <= self.box.room <= self.CAPACITY


TestMailboxAgainstDeque = MailboxAgainstDeque.TestCase


@pytest.mark.parametrize("capacity", [0, 63, 65, 100])
def test_a_capacity_that_is_no_power_of_two_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Mailbox(capacity)


def test_a_sleeper_is_woken_once_and_who_is_awake_is_left_alone() -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        box = Mailbox(1024, fd)
        box.push(b"a")
        box.publish()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(fd)
        assert box.drain() == [b"a"]
        assert not box.sleep()
        for _ in range(3):
            box.push(b"b")
            box.publish()
        assert os.eventfd_read(fd) == 1
    finally:
        os.close(fd)


def test_two_threads_without_the_gil_pass_everything_on() -> None:
    """Also what the thread sanitizer looks at."""
    count = 20_000
    there, back = Mailbox(1024), Mailbox(4096)
    feed, out = Mailbox(1 << 20), Mailbox(1 << 20)
    for i in range(count):
        assert feed.push(i.to_bytes(8, "little"))
    feed.publish()
    sums: list[int] = []
    hops = [(feed, there), (there, back), (back, out)]
    threads = [threading.Thread(target=lambda a=a, b=b: sums.append(pump(a, b, count))) for a, b in hops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [sum(range(count))] * 3
    assert [int.from_bytes(r, "little") for r in out.drain(count)] == list(range(count))
