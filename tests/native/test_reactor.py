"""The data plane by itself: real sockets, no control plane."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from pathlib import Path

import pytest
from reactor_rig import Rig

from gateway._native import reactor as native
from gateway.model.frames import FrameType, build_frame, parse_ids
from gateway.model.ports import ACK_SHOWN, ACK_WHOLE

NOTICE = build_frame(FrameType.NOTIFY, {"id": 1})
TICK_MS = 10


def notice(seq: int, size: int = 0) -> bytes:
    return build_frame(FrameType.NOTIFY, {"id": seq, "text": "x" * size})


def test_a_heartbeat_is_answered_without_the_control_thread() -> None:
    with Rig() as rig:
        peer, _ = rig.login()
        peer.send(FrameType.PING)
        assert peer.receive() == (FrameType.PONG, b"")
        assert rig.reactor.counters()["heartbeats"] == 1
        assert rig.events == []


def test_frames_come_up_whole_and_in_order_however_they_are_cut() -> None:
    with Rig() as rig:
        peer, link = rig.login()
        stream = b"".join(build_frame(FrameType.STATE, {"req": i, "pad": "y" * (i * 37)}) for i in range(40))
        for byte in stream[:300]:
            peer.sock.sendall(bytes((byte,)))
        peer.sock.sendall(stream[300:])
        for i in range(40):
            _, source, kind, body, _ = rig.event(native.EVENT_FRAME)
            assert (source, kind) == (link, FrameType.STATE)
            assert body == build_frame(FrameType.STATE, {"req": i, "pad": "y" * (i * 37)})[-len(body) :]


def test_anything_before_hello_is_out_of_order() -> None:
    with Rig() as rig:
        peer = rig.connect()
        peer.send(FrameType.PING)
        kind, body = peer.receive()
        assert kind == FrameType.GOAWAY
        assert b"out_of_order" in body
        assert peer.receive() is None
        assert rig.reactor.counters()["ended:out_of_order"] == 1


def test_what_is_pipelined_behind_hello_waits_for_the_login_and_then_comes_in_order() -> None:
    with Rig() as rig:
        peer = rig.connect()
        frames = [build_frame(FrameType.HELLO, {"v": 1}), *(build_frame(FrameType.STATE, {"req": i}) for i in range(9))]
        peer.sock.sendall(b"".join(frames) + build_frame(FrameType.PING))
        link = rig.event(native.EVENT_FRAME)[1]
        peer.sock.sendall(build_frame(FrameType.STATE, {"req": 9}))
        rig.reactor.welcome(link, 7, 60_000, 32, build_frame(FrameType.WELCOME, {"v": 1}))
        assert [rig.event(native.EVENT_FRAME)[3:] for _ in range(10)] == [
            (build_frame(FrameType.STATE, {"req": i})[2:], 7) for i in range(10)
        ]
        assert [peer.receive()[0] for _ in range(2)] == [FrameType.WELCOME, FrameType.PONG]


def test_much_behind_hello_waits_in_the_kernel_and_comes_after_the_login() -> None:
    with Rig() as rig:
        peer = rig.connect()
        peer.send(FrameType.HELLO, {"v": 1})
        link = rig.event(native.EVENT_FRAME)[1]
        peer.sock.sendall(build_frame(FrameType.STATE, {"pad": "x" * 3000}) * 100)
        rig.reactor.echo(link)  # not live yet: not answered
        _, other_link = rig.login(8)
        rig.reactor.echo(other_link)
        rig.event(native.EVENT_ECHO)
        assert rig.reactor.counters()["bytes_in"] < 64 * 1024
        rig.reactor.welcome(link, 7, 60_000, 32, build_frame(FrameType.WELCOME, {"v": 1}))
        for _ in range(100):
            assert rig.event(native.EVENT_FRAME)[1:3] == (link, FrameType.STATE)
        peer.close()
        assert rig.event(native.EVENT_DOWN)[1] == link


def test_a_peer_that_is_refused_with_much_behind_its_hello_is_still_told_why() -> None:
    with Rig() as rig:
        peer = rig.connect()
        peer.send(FrameType.HELLO, {"v": 1})
        link = rig.event(native.EVENT_FRAME)[1]
        peer.sock.sendall(build_frame(FrameType.STATE, {"pad": "x" * 3000}) * 100)
        rig.reactor.close(link, build_frame(FrameType.ERROR, {"name": "unauthorized"}))
        assert b"unauthorized" in peer.receive()[1]
        assert peer.receive() is None
        peer.close()
        assert rig.event(native.EVENT_DOWN)[1:3] == (link, 0)


def test_a_second_hello_is_out_of_order() -> None:
    with Rig() as rig:
        peer, link = rig.login()
        peer.send(FrameType.HELLO, {"v": 1})
        assert b"out_of_order" in peer.receive()[1]
        assert rig.event(native.EVENT_DOWN)[:4] == (native.EVENT_DOWN, link, 7, native.REASONS.index("out_of_order"))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x03\xff\xff\xff\xff\x01", b"malformed_frame"),
        (b"\x03\x81\x20", b"frame_too_large"),  # 4,097 bytes before login
    ],
)
def test_a_bad_length_ends_the_link_with_its_reason(raw: bytes, reason: bytes) -> None:
    with Rig() as rig:
        peer = rig.connect()
        peer.sock.sendall(raw)
        assert reason in peer.receive()[1]
        assert peer.receive() is None


def test_a_larger_frame_is_taken_after_login() -> None:
    with Rig() as rig:
        peer, _ = rig.login()
        peer.send(FrameType.STATE, {"pad": "z" * 60_000})
        assert len(rig.event(native.EVENT_FRAME)[3]) > 60_000
        peer.send(FrameType.STATE, {"pad": "z" * 66_000})
        assert b"frame_too_large" in peer.receive()[1]


def test_who_never_logs_in_is_sent_away() -> None:
    with Rig(login_ms=50) as rig:
        peer = rig.connect()
        assert b"login_timeout" in peer.receive()[1]
        assert peer.receive() is None
        peer.close()
        while rig.reactor.counters()["links"]:
            rig.pump(0.01)


def test_silence_ends_a_link_and_any_byte_keeps_it() -> None:
    with Rig() as rig:
        quiet, quiet_link = rig.login(1, silence_ms=200)
        lively, lively_link = rig.login(2, silence_ms=400)
        seen = set()
        while quiet_link not in seen:
            lively.send(FrameType.PING)
            assert lively.receive() == (FrameType.PONG, b"")
            if rig.pump(0.02):
                seen |= {e[1] for e in rig.events if e[0] == native.EVENT_DOWN}
        assert lively_link not in seen
        assert b"heartbeat_timeout" in quiet.receive()[1]


def test_a_notification_is_delivered_and_its_ack_comes_back_with_times() -> None:
    with Rig() as rig:
        peer, link = rig.login()
        assert rig.reactor.notify(link, notice(5), 5, 77, 60_000)
        assert peer.receive() == (FrameType.NOTIFY, notice(5)[2:])
        peer.send(FrameType.ACK, [5])
        seq, registration, sent_ms, acked_ms, flags, source = rig.ack()
        assert (seq, registration, flags, source) == (5, 77, 0, link)
        assert 0 < sent_ms <= acked_ms
        assert rig.reactor.counters()["inflight"] == 0


@pytest.mark.parametrize(("kind", "flags"), [(FrameType.SHOWN, ACK_SHOWN), (FrameType.WHOLE, ACK_WHOLE)])
def test_shown_and_whole_are_acks_that_say_so(kind: FrameType, flags: int) -> None:
    with Rig() as rig:
        peer, link = rig.login()
        rig.reactor.notify(link, notice(5), 5, 77, 60_000)
        peer.receive()
        peer.send(kind, [5])
        assert rig.ack()[4] == flags
        peer.send(kind, [5])
        assert rig.event(native.EVENT_LATE)[2:] == (5, 7, flags)


def test_an_ack_nobody_waits_for_is_reported_as_late() -> None:
    with Rig() as rig:
        peer, _link = rig.login()
        peer.send(FrameType.ACK, [2**64 - 1])
        assert rig.event(native.EVENT_LATE)[2:] == (2**64 - 1, 7, 0)


def test_no_ack_in_time_is_a_timeout_once() -> None:
    with Rig() as rig:
        peer, link = rig.login()
        rig.reactor.notify(link, notice(5), 5, 77, 30)
        assert rig.event(native.EVENT_TIMEOUT)[:4] == (native.EVENT_TIMEOUT, link, 5, 77)
        peer.send(FrameType.ACK, [5])
        assert rig.event(native.EVENT_LATE)[2:] == (5, 7, 0)
        assert rig.events == []


def test_what_is_in_flight_is_not_sent_twice_unless_asked() -> None:
    with Rig() as rig:
        peer, link = rig.login()
        for again in (False, False, True):
            rig.reactor.notify(link, notice(5), 5, 77, 60_000, again)
        rig.reactor.notify(link, notice(6), 6, 77, 60_000)
        assert [peer.receive()[1] for _ in range(3)] == [notice(5)[2:], notice(5)[2:], notice(6)[2:]]
        peer.send(FrameType.ACK, [5, 6])
        assert {rig.ack()[0], rig.ack()[0]} == {5, 6}


def test_the_window_spills_and_says_ready_when_half_empty() -> None:
    with Rig() as rig:
        peer, link = rig.login(window=4)
        for seq in range(1, 7):
            rig.reactor.notify(link, notice(seq), seq, 77, 60_000)
        assert [rig.event(native.EVENT_LOST)[2:] for _ in range(2)] == [(5, 77, 1), (6, 77, 1)]
        for _ in range(4):
            peer.receive()
        rig.reactor.hold(link)
        peer.send(FrameType.ACK, [1])
        rig.ack()
        assert rig.events == []
        peer.send(FrameType.ACK, [2])
        ready = rig.event(native.EVENT_READY)
        assert ready[1:4] == (link, 7, 2)
        assert sorted(ready[4]) == [(3, 77), (4, 77)]  # in flight


def test_ready_says_to_whom_each_is_in_flight() -> None:
    with Rig() as rig:
        peer, link = rig.login(window=6)
        for registration in (77, 78, 79):
            rig.reactor.bind(link, 0, registration)
        rig.reactor.notify(link, notice(4), 4, 78, 60_000)
        rig.reactor.fanout([0], notice(5), 5, 60_000)
        for _ in range(4):
            peer.receive()
        peer.send(FrameType.ACK, [4])
        assert rig.ack()[:2] == (4, 78)
        rig.reactor.cancel(link, 5, 79)
        rig.reactor.hold(link)
        ready = rig.event(native.EVENT_READY)
        assert ready[3] == 4
        assert sorted(ready[4]) == [(5, 77), (5, 78)]


def test_nothing_overtakes_what_was_spilled_and_ready_waits_until_the_control_thread_knows() -> None:
    with Rig() as rig:
        peer, link = rig.login(window=2)
        rig.reactor.bind(link, 0, 77)
        for seq in (1, 2, 3):
            rig.reactor.notify(link, notice(seq), seq, 77, 60_000)
        assert [peer.receive()[1] for _ in range(2)] == [notice(1)[2:], notice(2)[2:]]
        assert rig.event(native.EVENT_LOST)[2:] == (3, 77, 1)
        peer.send(FrameType.ACK, [1, 2])
        assert {rig.ack()[0], rig.ack()[0]} == {1, 2}
        rig.reactor.notify(link, notice(4), 4, 77, 60_000)  # sent before the spill was known
        rig.reactor.fanout([0], notice(5), 5, 60_000)
        assert [rig.event(native.EVENT_LOST)[2:] for _ in range(2)] == [(4, 77, 1), (5, 77, 1)]
        rig.reactor.echo(link)
        rig.event(native.EVENT_ECHO)
        assert [e for e in rig.events if e[0] == native.EVENT_READY] == []
        rig.reactor.hold(link)
        assert rig.event(native.EVENT_READY)[1:3] == (link, 7)
        for seq in (3, 4):
            rig.reactor.notify(link, notice(seq), seq, 77, 60_000)
        assert [peer.receive()[1] for _ in range(2)] == [notice(3)[2:], notice(4)[2:]]


def test_a_hold_with_room_is_answered_at_once_and_once() -> None:
    with Rig() as rig:
        _, link = rig.login(window=4)
        rig.reactor.hold(link)
        rig.event(native.EVENT_READY)
        rig.reactor.echo(link)
        rig.event(native.EVENT_ECHO)
        assert rig.events == []


def test_a_peer_that_never_reads_spills_then_is_closed() -> None:
    with Rig(outbox_bytes=65_536, slow_ms=100) as rig:
        _, link = rig.login(window=1000, receive_buffer=4096)
        waiting = list(range(1, 1000))
        while not any(e[0] == native.EVENT_DOWN for e in rig.events):
            for seq in waiting[:8]:
                rig.reactor.notify(link, notice(seq, 16_000), seq, 77, 60_000)
            del waiting[:8]
            rig.reactor.hold(link)
            rig.pump()
        spilled = {e[2] for e in rig.events if e[0] == native.EVENT_LOST and e[4]}
        lost = {e[2] for e in rig.events if e[0] == native.EVENT_LOST and not e[4]}
        assert native.REASONS[rig.event(native.EVENT_DOWN)[3]] == "slow_consumer"
        assert rig.reactor.counters()["spilled_outbox"] > 0
        sent = set(range(1, 1000)) - set(waiting)
        assert spilled | lost == sent  # every one is accounted for
        assert not spilled & lost


def test_a_link_that_goes_down_gives_back_what_was_unacked() -> None:
    with Rig() as rig:
        peer, link = rig.login()
        for seq in (5, 6):
            rig.reactor.notify(link, notice(seq), seq, 77, 60_000)
            peer.receive()
        peer.close()
        assert {rig.event(native.EVENT_LOST)[2:] for _ in range(2)} == {(5, 77, 0), (6, 77, 0)}
        assert rig.event(native.EVENT_DOWN)[:3] == (native.EVENT_DOWN, link, 7)


def test_a_stale_link_id_is_harmless_and_reported() -> None:
    with Rig() as rig:
        peer, link = rig.login()
        peer.close()
        rig.event(native.EVENT_DOWN)
        again, fresh = rig.login()
        assert fresh != link
        assert fresh >> 32 == link >> 32  # the same slot
        rig.reactor.notify(link, notice(5), 5, 77, 60_000)
        assert rig.event(native.EVENT_LOST)[1:] == (link, 5, 77, 0)
        rig.reactor.send(link, NOTICE)
        rig.reactor.close(link)
        again.send(FrameType.PING)
        assert again.receive() == (FrameType.PONG, b"")


def test_a_fanout_reaches_the_members_of_its_groups_only() -> None:
    with Rig() as rig:
        links = [rig.login(device) for device in range(1, 7)]
        for i, (_, link) in enumerate(links):
            rig.reactor.bind(link, i % 3, 100 + i)
        rig.reactor.fanout([0, 2], notice(9), 9, 60_000)
        for i, (peer, _) in enumerate(links):
            peer.send(FrameType.PING)
            kinds = [peer.receive()[0]]
            if i % 3 != 1:
                kinds.append(peer.receive()[0])
                peer.send(FrameType.ACK, [9])
            assert set(kinds) == ({FrameType.PONG} if i % 3 == 1 else {FrameType.NOTIFY, FrameType.PONG})
        assert {rig.ack()[1] for _ in range(4)} == {100, 102, 103, 105}
        assert {rig.event(native.EVENT_FANNED)[1:4] for _ in range(2)} == {(0, 9, 2), (2, 9, 2)}


def test_a_fanout_below_a_links_floor_is_not_sent_there() -> None:
    with Rig() as rig:
        (calm, calm_link), (other, other_link) = rig.login(1), rig.login(2)
        for number, link in ((1, calm_link), (2, other_link)):
            rig.reactor.bind(link, 0, number)
        rig.reactor.set_floor(calm_link, 3)
        rig.reactor.fanout([0], notice(5), 5, 60_000, 2)
        rig.reactor.fanout([0], notice(6), 6, 60_000, 3)
        assert calm.receive()[1] == notice(6)[2:]
        assert [other.receive()[1] for _ in range(2)] == [notice(5)[2:], notice(6)[2:]]
        assert {rig.event(native.EVENT_FANNED)[2:4] for _ in range(2)} == {(5, 1), (6, 2)}


def test_a_burst_of_fanouts_to_one_group_leaves_each_link_in_few_writes_and_in_order() -> None:
    with Rig() as rig:
        peer, link = rig.login()
        rig.reactor.bind(link, 3, 1)
        for seq in range(20, 40):
            rig.reactor.fanout([3], notice(seq), seq, 60_000)
        assert [peer.receive()[1] for _ in range(20)] == [notice(seq)[2:] for seq in range(20, 40)]


def test_one_who_left_a_group_gets_nothing_more_and_its_unacked_come_back() -> None:
    with Rig() as rig:
        peer, link = rig.login()
        rig.reactor.bind(link, 0, 1)
        rig.reactor.bind(link, 1, 2)
        rig.reactor.fanout([0], notice(5), 5, 60_000)
        assert peer.receive()[0] == FrameType.NOTIFY
        rig.reactor.unbind(link, 1)
        assert rig.event(native.EVENT_LOST)[2:] == (5, 1, 0)
        rig.reactor.fanout([0, 1], notice(6), 6, 60_000)
        assert peer.receive()[1] == notice(6)[2:]
        peer.send(FrameType.PING)
        assert peer.receive()[0] == FrameType.PONG


def test_a_recall_cancels_and_tells_the_device() -> None:
    with Rig() as rig:
        peer, link = rig.login()
        rig.reactor.notify(link, notice(5), 5, 77, 100)
        peer.receive()
        rig.reactor.cancel(link, 5, 77, build_frame(FrameType.RECALL, [5]))
        kind, body = peer.receive()
        assert (kind, parse_ids(body)) == (FrameType.RECALL, [5])
        assert not rig.pump(0.2)  # no timeout, no loss: it is forgotten


def test_the_login_rate_is_held_by_sending_away() -> None:
    with Rig(logins_per_s=2) as rig:
        kinds = []
        for _ in range(6):
            peer = rig.connect()
            peer.send(FrameType.HELLO, {"v": 1})
        rig.event(native.EVENT_FRAME)
        rig.event(native.EVENT_FRAME)
        for peer in rig.peers[2:]:
            kinds.append(peer.receive()[1])
        assert all(b"overloaded" in body for body in kinds)


def test_links_over_the_limit_are_closed_and_counted() -> None:
    with Rig(max_links=2) as rig:
        rig.login(1)
        rig.login(2)
        assert rig.connect().receive() is None
        assert rig.reactor.counters()["ended:full"] == 1


def test_a_drain_does_not_wait_for_places_that_are_empty() -> None:
    with Rig() as rig:
        for device in range(1, 5):
            peer, _ = rig.login(device)
            peer.close()
            rig.event(native.EVENT_DOWN)
        last, _ = rig.login(9)
        rig.reactor.drain_links([build_frame(FrameType.GOAWAY, {"name": "draining"})], 600_000)
        assert b"draining" in last.receive()[1]
        rig.event(native.EVENT_DRAINED)


def test_a_drain_sends_everyone_away_and_reports_the_end() -> None:
    with Rig() as rig:
        peers = [rig.login(device)[0] for device in range(1, 20)]
        rig.reactor.drain_links([build_frame(FrameType.GOAWAY, {"name": "draining"})], 100)
        for peer in peers:
            assert b"draining" in peer.receive()[1]
            assert peer.receive() is None
        rig.event(native.EVENT_DRAINED)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", rig.port))


def test_a_drain_takes_its_time_however_busy_the_reactor_is() -> None:
    with Rig() as rig:
        peers = [rig.login(device)[0] for device in range(1, 40)]
        began = time.monotonic()
        rig.reactor.drain_links([build_frame(FrameType.GOAWAY, {"name": "draining"})], 500)
        rig.reactor.echo(1)
        busy = 0
        while not any(e[0] == native.EVENT_DRAINED for e in rig.events):
            peers[-1].send(FrameType.PING)  # each is a turn of the loop
            busy += 1
            sent_away = sum(rig.reactor.counters()[f"ended:{reason}"] for reason in native.REASONS)
            passed_ms = (time.monotonic() - began) * 1_000 + TICK_MS
            assert sent_away <= len(peers) * passed_ms / 500 + 1
            rig.pump(0.0005)
        assert busy > len(peers)
        assert rig.reactor.counters()["ended:draining"] == len(peers)


def test_a_connection_reset_is_an_end_like_any_other() -> None:
    with Rig() as rig:
        peer, link = rig.login()
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        assert rig.event(native.EVENT_DOWN)[1] == link


def test_the_reactor_has_a_descriptor_table_of_its_own() -> None:
    with Rig() as rig:
        before = len(os.listdir("/proc/self/fd"))
        for device in range(1, 30):
            rig.login(device)
        ours = len(os.listdir("/proc/self/fd"))
        # The devices' ends only; under the thread sanitizer there is one table for all (ext/include/gw_sys.h).
        assert ours - before == (58 if os.environ.get("GATEWAY_SANITIZER") == "tsan" else 29)


def test_no_signal_is_handled_where_the_descriptors_of_the_process_are_others() -> None:
    """A handler wakes a loop by a write to a descriptor: in a reactor's table that is closed, or a device's socket."""
    with Rig() as rig:
        status = Path(f"/proc/self/task/{rig.thread.native_id}/status").read_text()
    (blocked,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk"))
    heard = {number for number in signal.valid_signals() if not blocked >> (number - 1) & 1}
    assert not heard & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM, signal.SIGUSR1}
    assert heard >= {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT}  # its own faults are told


def test_a_link_takes_112_bytes() -> None:
    assert native.LINK_BYTES == 112


@pytest.mark.parametrize("uptime_ms", [(1 << 32) - 1_000, (1 << 32) + 9_000_000], ids=["at 50 days", "after 50 days"])
def test_times_are_right_however_long_the_reactor_runs(uptime_ms: int) -> None:
    with Rig(uptime_ms=uptime_ms) as rig:
        peer, link = rig.login()
        before = time.time_ns() // 1_000_000
        rig.reactor.notify(link, notice(1), 1, 9, 60_000)
        rig.reactor.notify(link, notice(2), 2, 9, 1_500)
        assert rig.event(native.EVENT_TIMEOUT)[2] == 2
        peer.send(FrameType.ACK, [1])
        _, _, sent_ms, acked_ms, _, _ = rig.ack()
        assert before - 50 <= sent_ms <= acked_ms - 1_400
        assert acked_ms <= time.time_ns() // 1_000_000 + 50


def test_links_and_timers_live_through_the_turn_of_the_tick() -> None:
    with Rig(uptime_ms=(1 << 32) * 10 - 500, login_ms=700) as rig:
        silent = rig.connect()
        peer, link = rig.login(silence_ms=60_000)
        _, quiet = rig.login(8, silence_ms=900)
        rig.reactor.notify(link, notice(1), 1, 9, 800)
        assert rig.event(native.EVENT_TIMEOUT)[1:3] == (link, 1)
        assert rig.event(native.EVENT_DOWN)[1] == quiet
        assert b"login_timeout" in silent.receive()[1]
        peer.send(FrameType.PING)
        assert peer.receive()[0] == FrameType.NOTIFY
        assert peer.receive()[0] == FrameType.PONG
        assert rig.reactor.counters()["links"] >= 1
