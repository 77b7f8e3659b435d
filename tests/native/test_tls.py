"""TLS inside a reactor: real clients of Python's ssl module, no control plane."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reactor_rig import Peer, Rig

from gateway._native import reactor as native
from gateway._native.tls import TLS_FAILURES, TlsContext
from gateway.model.frames import FrameType, build_frame
from gateway.tour.authority import ALPN, Authority, Pair

NOTICE = build_frame(FrameType.NOTIFY, {"id": 1})
CA = Authority()
SERVER = CA.issue("localhost", "127.0.0.1")


def context(pair: Pair = SERVER, **options: Any) -> TlsContext:
    return TlsContext(pair.chain, pair.key, **options)


@contextlib.contextmanager
def tls_rig(tls: TlsContext | None = None, **options: Any) -> Iterator[Rig]:
    with Rig(tls=tls or context(), **options) as rig:
        yield rig


def failures(rig: Rig) -> dict[str, int]:
    """Those that happened."""
    return {
        name.removeprefix("tls:"): n for name, n in rig.reactor.counters().items() if name.startswith("tls:") and n
    }


def until(rig: Rig, found: Any) -> None:
    """Wait for what only counters tell: the reactor answers commands of another link meanwhile."""
    for _ in range(2000):
        if found():
            return
        rig.pump(0.005)
    raise AssertionError(f"not so: {rig.reactor.counters()}")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_device_logs_in_and_is_notified(version: ssl.TLSVersion) -> None:
    mine = CA.context()
    mine.minimum_version = mine.maximum_version = version
    with tls_rig() as rig:
        peer, link = rig.login(tls=mine)
        assert peer.sock.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert peer.sock.selected_alpn_protocol() == ALPN
        peer.send(FrameType.PING)
        assert peer.receive() == (FrameType.PONG, b"")
        rig.reactor.notify(link, NOTICE, 1, 5, 10_000)
        assert peer.receive()[0] == FrameType.NOTIFY
        peer.send(FrameType.ACK, [1])
        assert rig.ack()[0] == 1
        counters = rig.reactor.counters()
        assert (counters["tls_links"], counters["tls_full"], failures(rig)) == (1, 1, {})


def test_plain_and_tls_links_live_side_by_side_and_a_link_does_not_grow() -> None:
    assert native.LINK_BYTES == 112
    with tls_rig() as rig:
        plain, first = rig.login(1)
        secure, second = rig.login(2, tls=CA.context())
        for peer, link in ((plain, first), (secure, second)):
            rig.reactor.send(link, NOTICE)
            assert peer.receive()[0] == FrameType.NOTIFY
        assert (rig.reactor.counters()["links"], rig.reactor.counters()["tls_links"]) == (2, 1)
