"""What a reactor says to links it sends away: several frames, in turn."""

from __future__ import annotations

from collections import Counter

import pytest
from reactor_rig import Rig

from gateway._native import reactor as native
from gateway.edge.farewell import take_turns
from gateway.model.frames import FrameType, Goaway, build_frame, parse_body


def to(host: str) -> bytes:
    return build_frame(FrameType.GOAWAY, Goaway(code=26, name="draining", host=host, port=1))


def named(frame: tuple[int, bytes] | None) -> str:
    assert frame is not None
    assert frame[0] == FrameType.GOAWAY
    return parse_body(frame[1], Goaway).host


def test_a_drain_spreads_links_over_the_frames_by_their_turns() -> None:
    with Rig() as rig:
        peers = [rig.login(device)[0] for device in range(1, 41)]
        assert rig.reactor.drain_links([to("a"), to("b")], 0, take_turns([3, 1]))
        told = Counter(named(peer.receive()) for peer in peers)
        rig.event(native.EVENT_DRAINED)
    assert told == {"a": 30, "b": 10}


def test_logins_that_are_too_many_are_sent_elsewhere_and_no_more_once_nobody_has_room() -> None:
    with Rig() as rig:
        inside, _ = rig.login(1)
        rig.reactor.refuse_logins(True)
        assert rig.reactor.send_elsewhere([to("a"), to("b")], b"\0\1")
        assert [refused(rig) for _ in range(4)] == ["a", "b", "a", "b"]
        assert rig.reactor.send_elsewhere([to("c")])  # takes the place of the earlier ones
        assert refused(rig) == "c"
        assert rig.reactor.send_elsewhere([])
        assert refused(rig) == ""
        inside.send(FrameType.PING)
        assert inside.receive() == (FrameType.PONG, b"")


def refused(rig: Rig) -> str:
    peer = rig.connect()
    peer.send(FrameType.HELLO, {"v": 1})
    return named(peer.receive())


def test_a_second_drain_takes_the_place_of_the_first() -> None:
    with Rig() as rig:
        first, _ = rig.login(1)
        second, _ = rig.login(2)
        assert rig.reactor.drain_links([to("a")], 600_000)
        assert named(first.receive()) == "a"
        assert rig.reactor.drain_links([to("b")], 0)
        assert named(second.receive()) == "b"
        rig.event(native.EVENT_DRAINED)


@pytest.mark.parametrize(
    ("frames", "turns"), [([], b"\0"), ([b"x"], b""), ([b"x"], b"\1"), ([b"x"] * 65, b"\0"), ([b"x"], b"\0" * 1025)]
)
def test_an_order_that_makes_no_sense_is_refused(frames: list[bytes], turns: bytes) -> None:
    with Rig() as rig, pytest.raises(ValueError, match="farewell"):
        rig.reactor.drain_links(frames, 0, turns)


def test_what_was_not_given_out_yet_is_freed_with_the_reactor() -> None:
    with Rig() as rig:
        rig.login(1)
        rig.login(2)
        rig.reactor.send_elsewhere([to("a")])
        rig.reactor.drain_links([to("a"), to("b")], 600_000, b"\0\1")
        rig.reactor.echo(1)
