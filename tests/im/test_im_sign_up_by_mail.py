"""Signing up (D1) with a mailbox: the code goes out through a real OpenSMTPD, its person reads it in a real Dovecot and
is a user; who is known and who is new is the same until then."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from im.servers_needed import needs
from unit.im.im_ust_rig import UstRig, rig_over_store

from gateway.im.ust.code_by_mail import CodesByMail
from gateway.model.errors import BadRequest
from gateway.model.im_people import parse_user_id
from gateway.tour.networks.mail_peer import MailPeer
from gateway.tour.networks.mail_server import MailServer, is_root

pytestmark = [
    pytest.mark.slow,
    needs(
        *("dovecot", "smtpd", "/usr/lib/dovecot/lmtp") if is_root() else ("root",),
        packages="dovecot-imapd dovecot-lmtpd opensmtpd (as root)",
    ),
]
PHONE = b"p" * 16


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[MailServer]:
    async with MailServer(tmp_path / "mail") as server:
        yield server


@pytest.fixture
async def rig(server: MailServer, tmp_path: Path) -> AsyncIterator[UstRig]:
    settings = {
        "smtp_host": "127.0.0.1",
        "smtp_port": server.ports["smtp"],
        "smtp_tls": "never",
        "smtp_from": "codes@here.example",
    }
    async with rig_over_store(tmp_path / "store", **settings) as rig:
        rig.bring_mail(CodesByMail(rig.settings))
        yield rig


async def _read_code(peer: MailPeer) -> str:
    found = re.search(r"\b[0-9]{6}\b", (await peer.hear()).text)
    assert found is not None
    return found[0]


async def test_a_person_with_a_mailbox_signs_up_and_in_again(server: MailServer, rig: UstRig) -> None:
    peer = MailPeer(server)
    asked = await rig.do("register", token=PHONE, address=peer.address.upper())
    verified = await rig.do("verify", token=PHONE, address=peer.address, code=await _read_code(peer), name="Bob")
    user = parse_user_id(verified["user"])
    assert user is not None
    assert rig.users.signed_in(PHONE) == user
    assert await rig.do("register", address=peer.address) == asked
    code = await _read_code(peer)
    with pytest.raises(BadRequest):
        await rig.do("verify", token=PHONE, address=peer.address, code=code)  # asked for over REST
    again = await rig.do("verify", address=peer.address, code=code)
    assert (again["user"], again["is_new"]) == (verified["user"], False)
    assert rig.ust.sessions.user(again["key"], rig.now_ms) == user
