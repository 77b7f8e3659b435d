"""What we write is what others write and read (C9): libwbxml makes the same bytes of our XML and reads ours, and
Wireshark reads the whole of a short message, from the SMPP PDU down to the text."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from needs import needs
from test_tshark import dissect

from gateway.paging.sms.pdu import ESM_UDHI, Address, Command, ShortMessage, build_message, build_pdu
from gateway.paging.wap.content import build_segments
from gateway.paging.wap.documents import (
    TIMES_S,
    Action,
    Document,
    Loading,
    ServiceIndication,
    ServiceLoading,
    build_xml,
    clean_text,
    is_link,
    parse_xml,
)
from gateway.paging.wap.wbxml import build_wbxml, parse_wbxml

pytestmark = pytest.mark.slow
LIBWBXML = needs({"xml2wbxml": "libwbxml2-utils", "wbxml2xml": "libwbxml2-utils"})
TSHARK = needs({"tshark": "tshark"})
CHARACTERS = [*"aB0 éя中&<>\"'%=", "😀", ".com/", ".net/", "\u00a0", "]]>", "\U0010fffd", "&amp;", "http://"]
PATHS = [*"ab/.?=&;~'!()*+,$:@-_#", "%20", ".com/", ".org/", ".edu/", ".net/", "http://www."]


def documents(count: int) -> list[Document]:
    """The same on every run."""
    chance = random.Random(9)

    def text(most: int) -> str:
        return clean_text("".join(chance.choices(CHARACTERS, k=chance.randrange(most))))

    def time_s() -> int:
        day_s = chance.randrange(1, TIMES_S[-1]) // 86_400 * 86_400
        return chance.choice([0, 1, max(1, day_s), day_s + 36_000, TIMES_S[-1], chance.randrange(1, TIMES_S[-1])])

    found: list[Document] = []
    while len(found) < count:
        href = chance.choice(["http://", "https://", "http://www.", "https://www.", "http://w"])
        href += chance.choice(["a.com", "x.example.net", "b.org:8080", "edu.edu", "com.net.org", "[::1]", "a"]) + "/"
        href += "".join(chance.choices(PATHS, k=chance.randrange(40)))
        if not is_link(href, 4_096):
            continue
        if len(found) % 3:
            action = chance.choice([each for each in Action if each is not Action.DELETE])
            found.append(ServiceIndication(href, text(60), text(12), action, time_s(), time_s()))
        else:
            found.append(ServiceLoading(href, chance.choice(list(Loading))))
    return found


def run(*command: str, stdin: bytes) -> bytes:
    return subprocess.run([*command, "-o", "-", "-"], input=stdin, check=True, capture_output=True, timeout=10).stdout


@LIBWBXML
def test_libwbxml_makes_the_same_bytes() -> None:
    for document in documents(300):
        xml = build_xml(document)
        assert run("xml2wbxml", "-v", "1.2", "-n", stdin=xml) == build_wbxml(document), xml
    # with a table of strings, which it makes where words repeat: ours is another form of the same
    for document in documents(60):
        assert parse_wbxml(run("xml2wbxml", "-v", "1.2", stdin=build_xml(document))) == document


@LIBWBXML
def test_libwbxml_reads_ours() -> None:
    for document in documents(150):
        assert parse_xml(run("wbxml2xml", stdin=build_wbxml(document))) == document
    gone = ServiceIndication(si_id="ab12@push.example.com", action=Action.DELETE)
    assert parse_xml(run("wbxml2xml", stdin=build_wbxml(gone))) == gone


@TSHARK
def test_wireshark_reads_a_push_in_a_short_message(tmp_path: Path) -> None:
    indication = ServiceIndication(
        "http://www.shop.example.com/w", "Hi there", "ab12", Action.HIGH, 1_795_388_400, 1_795_996_800
    )
    documents: list[Document] = [indication, ServiceLoading("https://shop.example.net/w")]
    pdus = [
        build_pdu(
            Command.SUBMIT_SM,
            number,
            build_message(
                ShortMessage(
                    source=Address(5, 0, "SHOP"),
                    destination=Address(1, 1, "491701234567"),
                    message=segment.user_data,
                    esm_class=ESM_UDHI,
                    data_coding=segment.coding,
                )
            ),
        )
        for number, document in enumerate(documents, 1)
        for segment in build_segments(document, 7, 1)
    ]
    assert len(dissect(pdus, tmp_path)) == 2
    options = ["-d", "tcp.port==2775,smpp", "-o", "gsm_sms_ud.port_number_udh_means_wsp:TRUE"]
    shown = subprocess.run(
        ["tshark", "-r", str(tmp_path / "smpp.pcap"), "-V", *options],
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout.decode()
    _, first, second = shown.split("Short Message Peer to Peer, Command: Submit_sm")
    for words in (
        "(2948)",
        "PDU Type: Push (0x06)",
        "Content-Type: application/vnd.wap.sic",
        "X-Wap-Application-Id: x-wap-application:wml.ua",
        "-//WAPFORUM//DTD SI 1.0//EN",
        "href='http://www.'",
        "action='signal-high'",
        "%DateTime: 2026-11-22T23:00:00Z",
        "'Hi there'",
    ):
        assert words in first
    for words in ("application/vnd.wap.slc", "-//WAPFORUM//DTD SL 1.0//EN", "href='https://'", "action='execute-low'"):
        assert words in second
    assert "Malformed" not in shown
