"""One step of a reactor fits into the room it looked for: no event is dropped, whatever a device sends."""

from __future__ import annotations

import contextlib
import time

from reactor_rig import Rig

from gateway._native import reactor as native
from gateway.model.frames import FrameType, build_frame, build_varint

EVENT = 48  # bytes of one in the mailbox, its header included
ONE_BYTE_IDS = 1_024
WELCOME = build_frame(FrameType.WELCOME, {"v": 1})
NOTICE = build_frame(FrameType.NOTIFY, {"id": 1})
STALE = 0xFFFFFF << 32  # no link


def acks(count: int) -> bytes:
    """Ids of one byte that nobody sent: one event for each byte, the most a device can make."""
    whole, rest = divmod(count, ONE_BYTE_IDS)
    return build_frame(FrameType.ACK, [1] * ONE_BYTE_IDS) * whole + build_frame(FrameType.ACK, [1] * rest)


def wait_for(rig: Rig, counter: str, value: int) -> None:
    """Without taking an event: that would make room."""
    end = time.monotonic() + 10
    while rig.reactor.counters()[counter] < value:
        assert time.monotonic() < end, counter


def fill(rig: Rig) -> int:
    """Leave just the room a read asks for in the mailbox, twice that of a step; how many events that took."""
    peer, _ = rig.login(1)
    rig.events.clear()
    count = (rig.reactor.mailbox_bytes - 2 * rig.reactor.step_bytes) // EVENT - 1
    peer.sock.sendall(acks(count))
    peer.send(FrameType.PING)
    assert peer.receive() == (FrameType.PONG, b"")
    return count


def fill_more(rig: Rig) -> int:
    """Behind `fill`: leave just the room that a step other than a read asks for."""
    count = rig.reactor.step_bytes // EVENT - 1
    for seq in range(count):
        assert rig.reactor.notify(STALE, NOTICE, seq, 1, 1_000)
    wait_for(rig, "gone", count)
    return count


def test_the_end_of_a_link_is_told_however_many_late_acks_come_before_it() -> None:
    with Rig(login_frame_bytes=16_384) as rig:
        peer = rig.connect()
        peer.send(FrameType.HELLO, {"v": 1})
        link = rig.event(native.EVENT_FRAME)[1]
        # As much behind HELLO as is ever taken before its WELCOME; the last ACK is no array and ends the link.
        before = rig.reactor.counters()["bytes_in"]
        peer.sock.sendall(acks(16_000))
        wait_for(rig, "bytes_in", before + 16_096)
        peer.sock.sendall(acks(16_200) + bytes((FrameType.ACK, 1, 0xC0)))
        filled = fill(rig)
        fill_more(rig)
        rig.reactor.welcome(link, 2, 60_000, 32, WELCOME)
        wait_for(rig, "ended:malformed_frame", 1)
        assert rig.event(native.EVENT_DOWN)[1] == link
        told = sum(event[0] == native.EVENT_LATE for event in rig.events)
        assert told == filled + 32_200


def test_a_widest_window_of_losses_and_a_largest_frame_fit_too() -> None:
    window = 4_096
    with Rig(outbox_bytes=1 << 24, max_frame_bytes=131_072) as rig:
        peer, link = rig.login(2, window=window)
        for seq in range(1_000, 1_000 + window):
            assert rig.reactor.notify(link, build_frame(FrameType.NOTIFY, {"id": seq}), seq, 1, 60_000)
        for _ in range(window):
            assert peer.receive() is not None
        body = bytes(131_000)
        frame = build_varint(len(body)) + body
        peer.sock.sendall(bytes((FrameType.STATE,)) + frame[:-1])
        fill(rig)
        peer.sock.sendall(frame[-1:] + acks(16_200) + bytes((FrameType.ACK, 1, 0xC0)))
        wait_for(rig, "ended:malformed_frame", 1)
        assert rig.event(native.EVENT_DOWN)[1] == link
        assert len([event for event in rig.events if event[0] == native.EVENT_LOST]) == window
        assert [event[3] for event in rig.events if event[0] == native.EVENT_FRAME] == [body]


def test_a_burst_of_fanouts_to_a_link_without_room_is_told_whole() -> None:
    with Rig() as rig:
        _, link = rig.login(2, window=1)
        rig.reactor.bind(link, 5, 77)
        count = 30_000
        fill(rig)
        gone = fill_more(rig)
        for seq in range(count):
            assert rig.reactor.fanout([5], NOTICE, 1_000 + seq, 60_000)
        fanned = 0
        while fanned < count:
            assert rig.pump()
            fanned += sum(event[0] == native.EVENT_FANNED for event in rig.events)
            rig.events = [event for event in rig.events if event[0] == native.EVENT_LOST]
        assert len(rig.events) == gone + count - 1


def test_a_device_that_sends_without_end_keeps_nothing_from_the_others() -> None:
    """Nobody takes events meanwhile: reads rest, but commands, what goes out and deadlines do not suffer."""
    with Rig(login_ms=300) as rig:
        flooder, _ = rig.login(1)
        peer, link = rig.login(2)
        flooder.sock.setblocking(False)
        while not rig.reactor.counters()["mailbox_full"]:
            with contextlib.suppress(BlockingIOError):
                flooder.sock.send(bytes((0x33, 0)) * 8_000)
        rig.reactor.set_silence(link, 300)  # not before: filling it may take longer
        unread = rig.connect()
        unread.send(FrameType.HELLO, {"v": 1})
        peer.send(FrameType.PING)
        rig.reactor.notify(link, NOTICE, 1, 9, 60_000)
        assert peer.receive()[0] == FrameType.NOTIFY
        wait_for(rig, "mailbox_full", 1_400)  # half a millisecond each: past both deadlines
        flooder.close()
        rig.peers.remove(flooder)
        peer.sock.settimeout(0.01)
        while not peer.frames:
            rig.pump(0.01)
            with contextlib.suppress(TimeoutError):
                peer.frames.extend(peer.reader.feed(peer.sock.recv(65_536)))
        assert peer.receive() == (FrameType.PONG, b"")
        counters = rig.reactor.counters()
        assert (counters["ended:heartbeat_timeout"], counters["ended:login_timeout"]) == (0, 0)


def test_the_control_thread_is_given_a_bounded_number_of_frames_at_once() -> None:
    with Rig() as rig:
        peer, _ = rig.login()
        peer.sock.sendall(bytes((0x33, 0)) * 1_000)
        peer.send(FrameType.PING)
        assert peer.receive() == (FrameType.PONG, b"")
        batches = []
        more = True
        while more:
            _, others, more = rig.reactor.drain()
            batches.append(len(others))
        assert batches == [256, 256, 256, 232]
