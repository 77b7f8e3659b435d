"""Service indication and service loading, as XML, as WBXML and inside a WSP push (C9): what is written is read again,
byte by byte as the specifications have it, and nothing from outside raises anything but its own error."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.paging.wap.documents import (
    TIMES_S,
    Action,
    BadDocument,
    Document,
    Loading,
    ServiceIndication,
    ServiceLoading,
    build_time,
    build_xml,
    clean_text,
    is_link,
    parse_time,
    parse_xml,
)
from gateway.paging.wap.wbxml import build_wbxml, parse_wbxml
from gateway.paging.wap.wsp import SIC, WML_UA, BadPush, WspPush, build_push, build_uint, parse_push
from gateway.paging.wap.xml_tree import MOST_BYTES, MOST_DEPTH, MOST_ELEMENTS, BadXml, read_tree

HREFS = st.builds(
    lambda scheme, host, path: scheme + host + path,
    st.sampled_from(["http://", "https://", "http://www.", "https://www."]),
    st.sampled_from(["a.example.com", "x.net", "a.org", "b.edu:81", "[::1]", "mail.example.com.net"]),
    st.text("abAB09.~/?#&'=%:;,+!$()*-_", max_size=40).map(lambda text: "/" + text),
).filter(lambda href: is_link(href, 4_096))
TIMES = st.one_of(st.just(0), st.integers(1, TIMES_S[-1]))
TEXTS = st.text(max_size=80).map(clean_text)
INDICATIONS = st.builds(
    ServiceIndication,
    href=HREFS,
    text=TEXTS,
    si_id=st.one_of(TEXTS, st.just("a.com/.net/b")),
    action=st.sampled_from([action for action in Action if action is not Action.DELETE]),
    created_s=TIMES,
    expires_s=TIMES,
)
LOADINGS = st.builds(ServiceLoading, href=HREFS, action=st.sampled_from(Loading))
DOCUMENTS: st.SearchStrategy[Document] = st.one_of(INDICATIONS, LOADINGS)
CREATED_S, EXPIRES_S = 1_795_388_400, 1_795_996_800  # 2026-11-22T23:00:00Z, 2026-11-30T00:00:00Z


def test_an_indication_is_what_another_encoder_makes_of_it() -> None:
    document = ServiceIndication(
        "http://push.example.net/w/ab12", "You have 1", "ab12@push", Action.HIGH, CREATED_S, EXPIRES_S
    )
    assert build_wbxml(document) == (
        bytes.fromhex("02056a0045c60c")
        + b"\x03push.example\x00\x87\x03w/ab12\x00"
        + b"\x11\x03ab12@push\x00\x08"
        + bytes.fromhex("0ac3052026112223")
        + bytes.fromhex("10c30420261130")
        + b"\x01\x03You have 1\x00\x01\x01"
    )


def test_a_loading_is_what_another_encoder_makes_of_it() -> None:
    document = ServiceLoading("https://www.push.example.net/w/ab12", Loading.EXECUTE_HIGH)
    assert build_wbxml(document) == bytes.fromhex("02066a00850c") + b"\x03push.example\x00\x87\x03w/ab12\x00\x06\x01"


def test_what_takes_an_indication_away_needs_its_id_and_no_link() -> None:
    document = ServiceIndication(si_id="x", action=Action.DELETE)
    assert parse_wbxml(build_wbxml(document)) == parse_xml(build_xml(document)) == document
    with pytest.raises(BadDocument):
        build_wbxml(ServiceIndication(action=Action.DELETE))
    with pytest.raises(BadDocument):
        build_wbxml(ServiceIndication(si_id="x"))


@given(DOCUMENTS)
def test_both_forms_are_read_as_they_were_written(document: Document) -> None:
    assert parse_wbxml(build_wbxml(document)) == document
    assert parse_xml(build_xml(document)) == document


@given(DOCUMENTS, st.data())
def test_a_form_that_was_cut_or_changed_is_refused_or_another_document(document: Document, data: Any) -> None:
    for whole, parse in ((build_wbxml(document), parse_wbxml), (build_xml(document), parse_xml)):
        at = data.draw(st.integers(0, len(whole) - 2))
        cut = whole[:at]
        with pytest.raises(BadDocument):
            parse(cut)
        changed = cut + bytes((data.draw(st.integers(0, 255)),)) + whole[at + 1 :]
        with contextlib.suppress(BadDocument):
            found = parse(changed)
            assert parse_wbxml(build_wbxml(found)) == found


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x02\x05\x6a\x00\x45\xc6", b"\x02\x06\x6a\x00\x85"]))
def test_bytes_from_outside_raise_their_own_error_alone(data: bytes, head: bytes) -> None:
    for parse in (parse_wbxml, parse_xml):
        with contextlib.suppress(BadDocument):
            parse(head + data)
    with contextlib.suppress(BadPush):
        parse_push(data)
    with contextlib.suppress(BadPush):
        parse_push(b"\x01\x06" + data)
    with contextlib.suppress(BadXml):
        read_tree(data)


def test_strings_from_a_table_and_characters_by_number_are_read() -> None:
    table = b"push.example\x00"
    document = parse_wbxml(
        b"\x03\x06\x6a" + bytes((len(table),)) + table + b"\x85\x0b\x83\x00\x87\x03w\x00\x02\x2d\x05\x01"
    )
    assert document == ServiceLoading("https://push.example.net/w-")


@pytest.mark.parametrize(
    "data",
    [
        "04056a0045",  # a version that there is not
        "02076a0045",  # of another kind
        "0205030045",  # latin-1
        "02066a0085080368747470733a2f2f7800010101",  # goes on behind its end
        "02066a008508036674703a2f2f780005010",  # (cut) ftp
        "02066a00850903780009037800 01",  # an attribute twice
        "02066a0085090378 00 04 01",  # a token that is none
        "02056a0045860ac30320 2611 01 01",  # a time that is too short
        "02056a0045860ac30520261122 00 01 01",  # its end is not dropped
        "02056a0045860ac3042026 1a22 01 01",  # no digits
        "02056a0045860ac3042026 1322 01 01",  # a thirteenth month
        "02056a0045c60c0378000103ff000101",  # no UTF-8
        "02066a00850902ffffffff7f01",  # no character
        "02066a0085098f",  # a string that is none
        "02066affffffffff0f",  # a table that is longer than all
    ],
)
def test_binary_forms_that_are_wrong_are_refused(data: str) -> None:
    data = data.replace(" ", "")
    with pytest.raises(BadDocument):
        parse_wbxml(bytes.fromhex(data[: len(data) // 2 * 2]))


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<si/>",
        "<si><indication href='http://x'/><indication href='http://x'/></si>",
        "<si a='b'><indication href='http://x'/></si>",
        "<si><indication href='http://x'><b/></indication></si>",
        "<si><indication href='http://x' action='loud'/></si>",
        "<si><indication href='http://x' colour='red'/></si>",
        "<si><indication href='http://x' created='yesterday'/></si>",
        "<sl href='http://x'>text</sl>",
        "<sl/>",
        "<wml/>",
        "<!DOCTYPE sl [<!ENTITY a 'http://x'>]><sl href='&a;'/>",
        "<!DOCTYPE sl SYSTEM 'file:///etc/hostname'><sl href='http://x'>&a;</sl>",
    ],
)
def test_xml_that_is_wrong_is_refused(xml: str) -> None:
    with pytest.raises(BadDocument):
        parse_xml(xml.encode())


def test_xml_is_read_inside_its_bounds_and_entities_are_refused() -> None:
    bomb = "<!DOCTYPE a [<!ENTITY b 'bb'>" + "".join(f"<!ENTITY b{n} '&b;&b;'>" for n in range(20)) + "]><a>&b9;</a>"
    outside = "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/hostname'>]><a>&b;</a>"
    for text in (
        bomb,
        outside,
        "<a>" * (MOST_DEPTH + 1),
        "<a>" + "<b/>" * MOST_ELEMENTS + "</a>",
        "<a>" + " " * MOST_BYTES + "</a>",
        "<?xml version='1.0' encoding='klingon'?><a/>",
        "<?xml version='1.0' encoding='utf-7'?><a/>",
    ):
        with pytest.raises(BadXml):
            read_tree(text.encode())
    root = read_tree(
        b'<!DOCTYPE pap PUBLIC "a" "http://x/dtd" [<?wap-pap-ver supported-versions="2.0"?>]><a b="c">d</a>'
    )
    assert (root.name, root.attributes, root.text, repr(root)) == ("a", {"b": "c"}, "d", "Element(a)")


@pytest.mark.parametrize(
    "document",
    [
        ServiceLoading("javascript:alert(1)"),
        ServiceLoading("http://"),
        ServiceLoading("http://a b"),
        ServiceLoading("http://user@x/"),
        ServiceLoading("http://x:0/"),
        ServiceLoading("http://x:99999/"),
        ServiceLoading("http://x/\n"),
        ServiceLoading("http://пример/"),
        ServiceLoading("http://[/"),
        ServiceIndication("http://x", "a\0b"),
        ServiceIndication("http://x", "a  b"),
        ServiceIndication("http://x", "\ud800"),
        ServiceIndication("http://x", created_s=-1),
        ServiceIndication("http://x", expires_s=TIMES_S[-1] + 1),
    ],
)
def test_what_a_terminal_could_not_read_is_not_written(document: Document) -> None:
    for build in (build_wbxml, build_xml):
        with pytest.raises(BadDocument):
            build(document)


def test_a_text_of_every_plane_is_cleaned_and_kept() -> None:
    planes = "".join(chr(plane << 16 | 0x41) for plane in range(17))
    assert clean_text(planes) == planes
    assert clean_text("\x07 Hi\n\tthere\x00 \ud800\ufffe ") == "Hi there"
    document = ServiceIndication("http://x", clean_text(planes))
    assert parse_wbxml(build_wbxml(document)) == parse_xml(build_xml(document)) == document
    assert "Hi" not in repr(ServiceIndication("http://x", "Hi"))


@given(st.integers(TIMES_S[0], TIMES_S[-1]))
def test_times_round_trip(time_s: int) -> None:
    assert parse_time(build_time(time_s)) == time_s


@given(
    st.builds(
        WspPush,
        transaction=st.integers(0, 255),
        content_type=st.integers(0, 127),
        application=st.integers(-1, 70_000),
        content_length=st.integers(-1, 70_000),
        body=st.binary(max_size=50),
    )
)
def test_a_push_is_read_as_it_was_written(push: WspPush) -> None:
    assert parse_push(build_push(push)) == push


def test_a_push_as_others_write_it() -> None:
    assert build_push(WspPush(1, SIC, WML_UA, body=b"x")) == bytes.fromhex("010603aeaf82") + b"x"
    # a content type with a charset, a header by its name, one that is not known, a long length
    data = bytes.fromhex("0106") + build_uint(200 + 18) + bytes.fromhex("03ae81ea") + b"X-A\0b\0"
    data += bytes.fromhex("8d0201 00") + b"\x9e\x1f" + build_uint(200)
    assert parse_push(data + bytes(200) + b"body") == WspPush(1, SIC, -1, 256, b"body")


@pytest.mark.parametrize("data", ["", "0107", "0106", "010604ae", "010601 05", "0106 02 2041", "010602ae01"])
def test_pushes_that_are_wrong_are_refused(data: str) -> None:
    with pytest.raises(BadPush):
        parse_push(bytes.fromhex(data.replace(" ", "")))
