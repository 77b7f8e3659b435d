"""Mails as they are sent: what goes in comes out, and no subject, name or address becomes a field."""

from __future__ import annotations

from email import message_from_bytes
from email.policy import default
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.im.mime import choose, clean, clean_line, decode_text, decode_transfer, split_parts
from gateway.im.mime_build import build_mail, message_id
from gateway.model.im import Conversation, ConversationKind, Envelope, Geo, Kind, Media, MediaFile, Person, Rejected

ME = "alice@mail.example"


def envelope(**more: object) -> Envelope:
    values: dict[str, object] = {
        "network": "mail",
        "conversation": Conversation(ConversationKind.DM, "bob@mail.example"),
        "sender": Person("", is_self=True),
        "txn_id": "t1",
        **more,
    }
    return Envelope(**values)  # type: ignore[arg-type]


def build(sent: Envelope, files: tuple[MediaFile, ...] = (), max_bytes: int = 1_000_000) -> bytes:
    return build_mail(sent, files, sender=ME, now_ms=1_795_760_000_000, max_bytes=max_bytes)[0]


_FIELDS = ["From", "To", "Subject", "Date", "Message-ID", "Content-Type", "Content-Transfer-Encoding", "MIME-Version"]


@given(st.text(max_size=400), st.text(max_size=2_000))
def test_any_subject_and_text_stay_what_they_are(subject: str, text: str) -> None:
    raw = build(envelope(subject=subject, text=text))
    parsed = message_from_bytes(raw, policy=default)
    assert sorted(parsed.keys()) == sorted(_FIELDS)
    head, leaves, _ = split_parts(raw)
    if clean_line(subject):
        assert head.subject.split() == clean_line(subject)[:150].split()
    body = choose(leaves).body
    assert body is not None
    assert decode_text(raw[body.start : body.end], body, 100_000) == clean(text).strip()
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    assert b"\n" not in raw.replace(b"\r\n", b"")


@pytest.mark.parametrize(
    "evil", ["x\r\nBcc: victim@x.example", "x\nBcc: v@x", "x\rBcc: v@x", "x\u2028Bcc: v@x", "x\0y\x85z"]
)
def test_line_ends_make_no_fields(evil: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    file = MediaFile(Media("m", f"image/{evil}", 4, evil), str(tmp_path / "f"), "")
    parsed = message_from_bytes(build(envelope(subject=evil, text=evil, reply_to=evil), (file,)), policy=default)
    assert "Bcc" not in parsed
    assert all("Bcc" not in part for part in parsed.walk())


@pytest.mark.parametrize("to", ["", "bob", "b@x\r\nRCPT TO:<v@x>", "b@x, v@x", "<b@x>", "b@x v@x"])
def test_what_is_no_address_is_rejected(to: str) -> None:
    with pytest.raises(Rejected, match=r"conversation\.remote_id"):
        build(envelope(conversation=Conversation(ConversationKind.DM, to)))


@pytest.mark.parametrize("kind", [Kind.EDIT, Kind.REDACTION, Kind.POST])
def test_what_no_mail_can_be_is_rejected(kind: Kind) -> None:
    with pytest.raises(Rejected):
        build(envelope(kind=kind))


def test_a_room_is_rejected() -> None:
    with pytest.raises(Rejected):
        build(envelope(conversation=Conversation(ConversationKind.ROOM, "bob@mail.example")))


def test_each_try_has_the_same_id_and_others_have_others() -> None:
    assert message_id(ME, "t1") == message_id(ME, "t1")
    assert len({message_id(ME, "t1"), message_id(ME, "t2"), message_id("bob@mail.example", "t1")}) == 3
    assert message_id(ME, "") != message_id(ME, "")


def test_an_answer_names_what_it_answers_however_long_that_name_is() -> None:
    long = "x" * 300 + "@mail.example"
    raw = build(envelope(text="yes", reply_to=long))
    assert f"In-Reply-To: <{long}>\r\n".encode() in raw
    assert split_parts(raw)[0].in_reply_to == long
    assert b"In-Reply-To" not in build(envelope(text="yes", reply_to="1.2@imap.invalid"))


def test_files_and_places(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(range(256)))
    file = MediaFile(Media("m", "image/png", 256, "ü/Bild.png"), str(tmp_path / "f"), "")
    raw = build(envelope(kind=Kind.LOCATION, text="here", geo=Geo(48.2, 16.3)), (file,))
    _, leaves, _ = split_parts(raw)
    chosen = choose(leaves)
    assert chosen.body is not None
    assert decode_text(raw[chosen.body.start : chosen.body.end], chosen.body, 999) == "here\ngeo:48.2,16.3"
    (leaf,) = chosen.attachments
    assert (leaf.mime, leaf.name) == ("image/png", "Bild.png")
    assert decode_transfer(raw[leaf.start : leaf.end], leaf.encoding) == bytes(range(256))


def test_a_mail_that_is_too_large_is_rejected_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as sparse:
        sparse.truncate(1 << 40)
    file = MediaFile(Media("m"), str(tmp_path / "f"), "")
    with pytest.raises(Rejected, match="larger than 1000 bytes"):
        build(envelope(), (file,), max_bytes=1_000)
