"""The forms of an opaque id: all of them read back, and nothing but random bits in it (C2, C6)."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.opaque_ids import LOCAL_CHARS, MAX_CHARS, OpaqueId, draw_local, parse_opaque_id

LOCALS = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=LOCAL_CHARS, max_size=LOCAL_CHARS)
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
HOSTS = st.lists(LABELS, min_size=1, max_size=5).map(".".join)
LOCAL = "k3v7q2m5x4z6b7n2c3d4f5g6h7"


@given(LOCALS, HOSTS)
def test_canonical_and_url_read_back_in_either_case(local: str, host: str) -> None:
    opaque = OpaqueId(local, host)
    for text in (opaque.canonical, opaque.url):
        assert parse_opaque_id(text) == opaque
        assert parse_opaque_id(text.upper()) == opaque


@given(LOCALS, LABELS, LABELS, st.text(string.ascii_lowercase, min_size=2, max_size=10))
def test_the_legacy_form_reads_back(local: str, host: str, operator: str, top: str) -> None:
    opaque = OpaqueId(local, f"{host}.{operator}.{top}")
    assert parse_opaque_id(opaque.legacy) == opaque


def test_the_example_of_the_source() -> None:
    opaque = parse_opaque_id("com.MNOcmcc.HOSTguangdong.User987654321")
    assert opaque == OpaqueId("987654321", "guangdong.cmcc.com")


def test_a_host_of_other_than_three_labels_has_no_legacy_form() -> None:
    assert OpaqueId(LOCAL, "localhost").legacy == ""


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    opaque = parse_opaque_id(text)
    assert opaque is None or parse_opaque_id(opaque.canonical) in (opaque, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        LOCAL,
        f"{LOCAL}@",
        f"@{LOCAL}",
        f"{LOCAL[1:]}@push.example.com",
        f"{LOCAL}1@push.example.com",
        f"{LOCAL[:-1]}1@push.example.com",  # no character of base32
        f"{LOCAL}@push.example.com@x",
        f"{LOCAL}@-push.example.com",
        f"{LOCAL}@push..example.com",
        f"{LOCAL}@push.example.com:80",
        f"{LOCAL}@push.example.com/",
        f"http://push.example.com/push/{LOCAL}",
        f"https://push.example.com/other/{LOCAL}",
        f"https://push.example.com/push/{LOCAL}/",
        f"https://push.example.com/push/{LOCAL}?a=b",
        f"https://user@push.example.com/push/{LOCAL}",
        f"https://push.example.com\\@evil.example/push/{LOCAL}",
        f"{LOCAL}@push.example.com\n",
        f" {LOCAL}@push.example.com",
        f"{LOCAL}@püsh.example.com",
        "com.MNOcmcc.HOSTguangdong.User",
        "com.MNOcmcc.HOSTguang.dong.User1",
        f"{LOCAL}@" + "a" * MAX_CHARS,
    ],
)
def test_what_is_no_id(text: str) -> None:
    assert parse_opaque_id(text) is None


def test_every_character_is_drawn() -> None:
    drawn = [draw_local() for _ in range(2_000)]
    assert len(set(drawn)) == len(drawn)
    assert {len(local) for local in drawn} == {LOCAL_CHARS}
    for place in range(LOCAL_CHARS):  # no constant character, the last one included
        assert len({local[place] for local in drawn}) == 32
