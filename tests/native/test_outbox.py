"""Outboxes: whole frames, in order, across partial writes; a broken socket is an error, not a signal."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._native.outbox import Outbox


def pair(send_buffer: int = 0) -> tuple[socket.socket, socket.socket]:
    left, right = socket.socketpair()
    if send_buffer:
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    left.setblocking(False)
    right.setblocking(False)
    return left, right


def take(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""


@settings(max_examples=50)
@given(st.lists(st.one_of(st.binary(min_size=1, max_size=9000), st.none()), max_size=120))
def test_what_goes_in_comes_out_in_order_whatever_the_socket_takes(script: list[bytes | None]) -> None:
    left, right = pair(4096)
    with left, right:
        box = Outbox()
        expected = got = b""
        for item in script:
            if item is None:
                box.flush(left.fileno())
                got += take(right)
            else:
                box.push(item)
                expected += item
        assert box.pending_bytes <= len(expected) - len(got)
        while box.pending_bytes:
            box.flush(left.fileno())
            got += take(right)
        assert got + take(right) == expected


def test_a_full_socket_takes_nothing_and_keeps_the_rest() -> None:
    left, right = pair(4096)
    with left, right:
        box = Outbox()
        for _ in range(100):
            box.push(b"x" * 10_000)
        sent = box.flush(left.fileno())
        assert 0 < sent < 1_000_000
        assert box.pending_bytes == 1_000_000 - sent
        assert box.flush(left.fileno()) == 0


def test_a_broken_socket_is_an_os_error() -> None:
    left, right = pair()
    right.close()
    with left:
        box = Outbox()
        box.push(b"x")
        with pytest.raises(BrokenPipeError):
            box.flush(left.fileno())


def test_clear_forgets_everything() -> None:
    box = Outbox()
    box.push(b"abc")
    box.clear()
    assert box.pending_bytes == 0


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="header"):
        Outbox().push(b"")
