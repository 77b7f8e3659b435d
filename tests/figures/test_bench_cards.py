"""The compiled cards speak CAT_TP as the state machine of `gateway.ota` does, and the floor answers them (O1, O2)."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from gateway._load.cattp import CattpFloor

from bench.system.cattp_servers import CATTP_PORT, CattpServer, PythonServer, identifications, open_socket
from gateway._load.cards import Cards
from gateway.ota.cattp import Limits, Link, Received, Transmit
from gateway.ota.cattp_pdu import ACK, NUL, RST, SYN, Pdu, Reason, build_pdu, parse_pdu

LOOPBACK = 0x7F000001


@contextlib.contextmanager
def running(cards: Cards) -> Iterator[Cards]:
    thread = threading.Thread(target=cards.run)
    thread.start()
    try:
        yield cards
    finally:
        cards.stop()
        thread.join()


async def until(cards: Cards, **wanted: int) -> dict[str, int]:
    """Their counts, once these are reached."""
    async with asyncio.timeout(60):
        while any(cards.counts()[name] < least for name, least in wanted.items()):
            await asyncio.sleep(0)
    return cards.counts()


@contextlib.asynccontextmanager
async def python_server(count: int) -> AsyncIterator[tuple[PythonServer, int]]:
    packed = identifications(count)
    server = PythonServer({packed[at : at + 16] for at in range(0, len(packed), 16)})
    sock = open_socket()
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: server, sock=sock)
    try:
        yield server, sock.getsockname()[1]
    finally:
        transport.close()


@pytest.mark.parametrize(("sockets", "size"), [(1, 0), (3, 1), (8, 600)])
async def test_cards_open_their_links_and_what_they_ask_is_acknowledged(sockets: int, size: int) -> None:
    async with python_server(50) as (server, port):
        # the first of them pass 65,535 with their first PDUs
        with running(Cards(LOOPBACK, port, identifications(50), sockets=sockets, first=65_530)) as cards:
            cards.open(50, 10)
            await until(cards, open=50)
            cards.ping(50, 10, size)
            counts = await until(cards, pairs=1_000)
            cards.ping(0, 10, size)
            assert (counts["malformed"], counts["foreign"], counts["ended"], counts["given_up"]) == (0, 0, 0, 0)
            assert cards.answer_ms()["count"] > 0
        assert server.counts()["links"] == 50
        # SDUs of the server arrived whole, a NUL is none
        assert (server.sdus > 0) is (size > 0)


async def test_losses_are_mended_and_drawn_from_the_seed() -> None:
    async with python_server(30) as (_server, port):
        with running(Cards(LOOPBACK, port, identifications(30), rto_ms=5, loss=0.2, seed=7)) as cards:
            cards.open(30, 30)
            await until(cards, open=30)
            cards.ping(30, 30, 16)
            counts = await until(cards, pairs=500, resent=1)
            assert counts["dropped"] > 0
            assert counts["ended"] == 0


async def test_who_is_not_known_gets_no_answer_and_gives_up() -> None:
    async with python_server(1) as (server, port):
        with running(Cards(LOOPBACK, port, bytes(16), rto_ms=1)) as cards:
            cards.open(1, 1)
            counts = await until(cards, given_up=1)
            assert (counts["open"], counts["received"]) == (0, 0)
            assert cards.is_calm
        assert server.received > 1


class Peer:
    """One card's server, PDU by PDU."""

    def __init__(self) -> None:
        self.socket = open_socket()
        self.socket.settimeout(10)
        self.port = self.socket.getsockname()[1]
        self._card: tuple[str, int] = ("", 0)

    def next(self) -> Pdu:
        data, self._card = self.socket.recvfrom(2048)
        return parse_pdu(data)

    def say(self, pdu: Pdu) -> None:
        self.socket.sendto(build_pdu(pdu), self._card)


async def test_a_card_takes_sdus_in_order_acknowledges_each_and_ends_with_a_rst() -> None:
    peer = Peer()
    with peer.socket, running(Cards(LOOPBACK, peer.port, b"0123456789abcdef", first=9)) as cards:
        cards.open(1, 1)
        syn = peer.next()
        assert syn.opening is not None
        assert (syn.flags, syn.sequence, syn.opening.identification) == (SYN, 9, b"0123456789abcdef")
        assert (syn.opening.max_pdu, syn.opening.max_sdu) == (1_400, 4_096)
        link = Link(Limits(), CATTP_PORT, 65_535)
        link.listen()
        for output in link.handle_pdu(syn, 0):
            assert isinstance(output, Transmit)
            peer.say(parse_pdu(output.data))
        answer = peer.next()
        assert (answer.flags, answer.sequence, answer.acknowledgement) == (ACK, 10, 65_535)
        link.handle_pdu(answer, 0)
        # more than one PDU, and a number that comes round
        sent = [parse_pdu(output.data) for output in link.send(b"x" * 3_000, 0) if isinstance(output, Transmit)]
        assert [pdu.sequence for pdu in sent] == [0, 1, 2]
        peer.say(sent[1])
        assert peer.next().acknowledgement == 65_535  # it comes too early
        for pdu in sent:
            peer.say(pdu)
            assert peer.next().acknowledgement == pdu.sequence
        peer.say(Pdu(ACK | NUL, CATTP_PORT, 1, 3, 9, 10))
        assert peer.next().acknowledgement == 3
        peer.say(Pdu(RST | ACK, CATTP_PORT, 1, 4, 9, 10, reason=Reason.TEMPORARY))
        # nobody answers a RST; garbage and strangers are dropped
        peer.say(Pdu(ACK | NUL, CATTP_PORT, 7, 3, 9, 10))
        peer.say(Pdu(ACK | NUL, 77, 1, 3, 9, 10))
        peer.socket.sendto(b"garbage", peer._card)
        counts = await until(cards, foreign=2, malformed=1)
        assert (counts["sdus"], counts["sdu_bytes"], counts["early"]) == (1, 3_000, 1)
        assert (counts["ended"], counts["open"], counts["malformed"], counts["foreign"]) == (1, 0, 1, 2)
        assert cards.reasons() == {Reason.TEMPORARY: 1}


async def test_the_floor_answers_a_link_s_pdus_and_no_other_s() -> None:
    with open_socket() as sock:
        floor = CattpFloor(sock.fileno(), 40)
        thread = threading.Thread(target=floor.run)
        thread.start()
        try:
            with running(Cards(LOOPBACK, sock.getsockname()[1], identifications(50), rto_ms=1)) as cards:
                cards.open(40, 10)
                await until(cards, open=40)
                cards.ping(40, 10, 32)
                counts = await until(cards, pairs=1_000)
                assert (counts["malformed"], counts["foreign"], counts["early"]) == (0, 0, 0)
                cards.ping(0, 10, 32)
                cards.open(50, 10)  # past its links a SYN gets no answer
                assert (await until(cards, given_up=10))["open"] == 40
            told = floor.counts()
            assert told["links"] == 40
            assert told["foreign"] >= 10
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.sendto(b"x" * 30, sock.getsockname())
                async with asyncio.timeout(60):
                    while not floor.counts()["malformed"]:
                        await asyncio.sleep(0)
        finally:
            floor.stop()
            thread.join()


def test_a_python_link_and_the_floor_say_the_same_to_the_same() -> None:
    """Handshake, an SDU and a NUL, byte by byte."""
    with open_socket() as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        floor = CattpFloor(sock.fileno(), 4)
        thread = threading.Thread(target=floor.run)
        thread.start()
        client.connect(sock.getsockname())
        client.settimeout(10)
        card = Link(Limits(), 5, 65_534, remote_port=CATTP_PORT, identification=b"who")
        server = Link(Limits(), CATTP_PORT, 1)
        server.listen()
        said = [output.data for output in card.connect(0) if isinstance(output, Transmit)]
        try:
            for step in range(6):
                for data in said:
                    answers = [out.data for out in server.handle(data, 0) if isinstance(out, Transmit)]
                    client.send(data)
                    assert [client.recv(2048) for _ in answers] == answers
                    back = [out for answer in answers for out in card.handle(answer, 0)]
                    assert not [out for out in back if isinstance(out, Received)]
                    said = [out.data for out in back if isinstance(out, Transmit)]
                if not said:
                    said = [out.data for out in card.send(bytes((step,)) * 40, 0) if isinstance(out, Transmit)]
        finally:
            floor.stop()
            thread.join()


@pytest.mark.parametrize("kind", ["floor", "python"])
async def test_a_server_in_a_process_of_its_own_says_what_it_counted(kind: str) -> None:
    async with CattpServer(kind, 20) as server:
        with running(Cards(LOOPBACK, server.port, identifications(20))) as cards:
            cards.open(20, 20)
            await until(cards, open=20)
            counts = await server.counts()
            assert counts["links"] == 20
            assert counts["received"] >= 20
        assert server.cpu_seconds() > 0
        assert server.private_bytes() > 0


def test_cards_that_have_no_room_are_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Cards(LOOPBACK, 9, b"short")
    with pytest.raises(ValueError, match="16 bytes"):
        Cards(LOOPBACK, 9, b"")
    with pytest.raises(ValueError, match="sockets"):
        Cards(LOOPBACK, 9, bytes(16), sockets=0)
    with pytest.raises(ValueError, match="room"):
        Cards(LOOPBACK, 9, bytes(16 * 65_001), sockets=1)
    with pytest.raises(ValueError, match="question"):
        Cards(LOOPBACK, 9, bytes(16)).ping(1, 1, 1_025)
