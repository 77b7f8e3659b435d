"""Which HELLOs are late: told by echoes that are not back, and by nothing else."""

from __future__ import annotations

from gateway.edge.login_queue import ECHOES, LoginQueue
from gateway.edge.plane import REACTOR_SHIFT

TIMEOUT_S = 10.0
OTHER = 1 << REACTOR_SHIFT


class Scene:
    def __init__(self) -> None:
        self.now = 1_000.0
        self.asked: list[int] = []
        self.takes_echoes = True
        self.queue = LoginQueue(self.echo, TIMEOUT_S, lambda: self.now)

    def echo(self, link: int) -> bool:
        if self.takes_echoes:
            self.asked.append(link)
        return self.takes_echoes


def test_a_hello_before_an_echo_of_longer_ago_than_it_may_take_is_late() -> None:
    scene = Scene()
    scene.queue.welcomed(7)
    assert not scene.queue.is_late(8)
    scene.now += TIMEOUT_S
    assert not scene.queue.is_late(9)
    scene.now += 0.01
    assert scene.queue.is_late(10)


def test_behind_that_echo_it_is_not_late_but_for_the_next() -> None:
    scene = Scene()
    scene.queue.welcomed(7)
    scene.queue.is_late(8)
    scene.now += TIMEOUT_S - 1
    scene.queue.is_late(9)
    scene.now += 2
    assert scene.queue.is_late(10)
    assert scene.queue.on_echo(7)
    assert not scene.queue.is_late(11)
    scene.now += TIMEOUT_S
    assert scene.queue.is_late(12)


def test_nothing_is_late_where_nothing_is_known() -> None:
    scene = Scene()
    assert not scene.queue.is_late(8)
    scene.now += 2 * TIMEOUT_S
    assert not scene.queue.is_late(8)
    assert not scene.asked
    scene.queue.welcomed(7)
    scene.takes_echoes = False  # the mailbox is full
    for _ in range(3):
        scene.now += 2 * TIMEOUT_S
        assert not scene.queue.is_late(8)


def test_a_link_that_is_down_takes_its_echoes_along_and_the_next_is_asked() -> None:
    scene = Scene()
    scene.queue.welcomed(7)
    scene.queue.is_late(8)
    scene.queue.on_down(6)
    scene.now += 2 * TIMEOUT_S
    scene.queue.on_down(7)
    assert not scene.queue.is_late(9)
    assert not scene.queue.on_echo(7)
    scene.queue.welcomed(9)
    assert not scene.queue.is_late(10)
    assert scene.asked == [7, 9]


def test_each_reactor_is_asked_for_itself() -> None:
    scene = Scene()
    scene.queue.welcomed(7)
    scene.queue.welcomed(OTHER | 3)
    scene.queue.is_late(8)
    scene.now += 2 * TIMEOUT_S
    assert not scene.queue.is_late(OTHER | 4)
    assert scene.queue.is_late(8)
    assert scene.queue.on_echo(OTHER | 3)
    assert not scene.queue.on_echo(OTHER | 3)  # of somebody else


def test_echoes_have_a_bound() -> None:
    scene = Scene()
    scene.queue.welcomed(7)
    for _ in range(10_000):
        scene.now += TIMEOUT_S / 9_999
        scene.queue.is_late(8)
    assert len(scene.asked) <= ECHOES + 1
