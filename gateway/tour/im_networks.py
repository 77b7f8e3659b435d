"""Networks of others for the clauses of IM: each a real server on loopback, an account there for our user, and a person
with the network's own client library; which of them are there depends on what is installed, and is said."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from gateway.model.im import Conversation


class Heard(Protocol):
    """What the person's client got."""

    @property
    def text(self) -> str: ...

    @property
    def file(self) -> bytes: ...

    @property
    def geo(self) -> tuple[float, float] | None: ...


class Peer(Protocol):
    @property
    def conversation(self) -> Conversation: ...

    async def say(self, text: str) -> None: ...

    async def say_file(self, data: bytes, mime: str, name: str) -> None: ...

    async def hear(self) -> Heard: ...


class Net(NamedTuple):
    """One network as a clause sees it."""

    name: str
    #: what stands there
    server: str
    credentials: Mapping[str, str]
    #: the same with a wrong password
    wrong: Mapping[str, str]
    peer: Peer
    #: takes files and places as such; else they go as text, and a file as a link
    has_files: bool


@contextlib.asynccontextmanager
async def xmpp(folder: Path) -> AsyncIterator[Net]:
    from gateway.tour.networks.prosody import Prosody
    from gateway.tour.networks.xmpp_peer import XmppPeer

    server = Prosody(folder, {"ann": "ann-pw", "bob": "bob-pw"}, (("ann", "bob"),))
    await server.start()
    peer = XmppPeer(server.address("bob"), "bob-pw", server.address("ann"), server.port)
    try:
        await peer.connect()
        form = {
            "jid": server.address("ann"),
            "password": "ann-pw",
            "host": "127.0.0.1",
            "port": str(server.port),
            "tls": "never",
        }
        wrong = {**form, "password": "wrong"}
        yield Net("xmpp", "prosody", form, wrong, peer, True)
    finally:
        await peer.close()
        await server.stop()


@contextlib.asynccontextmanager
async def matrix(folder: Path) -> AsyncIterator[Net]:
    from gateway.tour.networks.matrix_peer import MatrixPeer
    from gateway.tour.networks.synapse import Synapse

    async with Synapse(folder) as server:
        ours, theirs = await server.register("ann", "ann-pw"), await server.register("bob", "bob-pw")
        async with MatrixPeer(server.url, theirs, "bob-pw") as peer:
            await peer.meet(ours)
            form = {"user": ours, "homeserver": server.url, "tls": "never", "password": "ann-pw"}
            wrong = {**form, "password": "wrong"}
            yield Net("matrix", "Synapse", form, wrong, peer, True)


@contextlib.asynccontextmanager
async def irc(folder: Path) -> AsyncIterator[Net]:
    from gateway.tour.networks.irc_peer import IrcPeer
    from gateway.tour.networks.ngircd import Ngircd

    server = Ngircd(folder, "of-the-server")
    await server.start()
    peer = IrcPeer(server.port, "bob", "ann", "of-the-server")
    try:
        await peer.connect()
        form = {
            "server": "127.0.0.1",
            "port": str(server.port),
            "tls": "never",
            "nick": "ann",
            "server_password": "of-the-server",
        }
        wrong = {**form, "server_password": "wrong"}
        yield Net("irc", "ngircd", form, wrong, peer, False)
    finally:
        await peer.close()
        await server.stop()


@contextlib.asynccontextmanager
async def mail(folder: Path) -> AsyncIterator[Net]:
    from gateway.tour.networks.mail_peer import MailPeer
    from gateway.tour.networks.mail_server import PASSWORD, MailServer

    async with MailServer(folder) as server:
        form = {
            "address": server.address("ann"),
            "password": PASSWORD,
            "imap_host": "127.0.0.1",
            "imap_port": str(server.ports["imap"]),
            "smtp_host": "127.0.0.1",
            "smtp_port": str(server.ports["smtp"]),
            "tls": "never",
        }
        wrong = {**form, "password": "wrong"}
        peer = MailPeer(server, "bob", "ann")
        yield Net("mail", "Dovecot and OpenSMTPD", form, wrong, peer, True)


@contextlib.asynccontextmanager
async def bluesky(folder: Path) -> AsyncIterator[Net]:
    from gateway.tour.networks.bluesky_peer import BlueskyPeer, create_account, follow
    from gateway.tour.networks.pds import Pds

    server = Pds(folder)
    await server.start()
    try:
        ours = await create_account(server.url, "ann.test", "ann-pw")
        theirs = await create_account(server.url, "bob.test", "bob-pw")
        await follow(server.url, "ann.test", "ann-pw", theirs)
        peer = BlueskyPeer(server.url, "bob.test", "bob-pw", ours)
        await peer.connect()
        form = {
            "handle": "ann.test",
            "password": "ann-pw",
            "server": server.url.removeprefix("http://"),
            "tls": "never",
        }
        yield Net("bluesky", "a Bluesky PDS", form, {**form, "password": "wrong"}, peer, True)
        await peer.close()
    finally:
        await server.close()


def missing_of() -> dict[str, str]:
    """Network → what to install for its server; those that can be shown are not in it."""
    from gateway.tour.networks import mail_server, ngircd, pds, prosody, synapse
    from gateway.tour.operator.programs import missing

    found = {
        "xmpp": missing(prosody.NEEDED),
        "matrix": "" if (synapse.cache_folder() / synapse.PYTHON).exists() else "matrix-synapse (.ci/im)",
        "irc": missing({ngircd.PROGRAM: "ngircd"}),
        "mail": missing(mail_server.NEEDED),
        "bluesky": missing(pds.NEEDED) or ("" if (pds.PACKAGES / "ready").exists() else "@atproto/pds (.ci/im)"),
    }
    return {name: packages for name, packages in found.items() if packages}


NETWORKS = {"xmpp": xmpp, "matrix": matrix, "irc": irc, "mail": mail, "bluesky": bluesky}
