"""What is posted to a push proxy gateway, and how its answers are read (C9)."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.notifiers.upstream import GARBAGE, Fault, Row, Verdict
from gateway.paging.wap import errors
from gateway.paging.wap.documents import ServiceIndication, ServiceLoading, clean_text, parse_xml
from gateway.paging.wap.errors import CODES, ROWS, parse_code, parse_exchange
from gateway.paging.wap.pap import BadAnswer, PapAnswer, PushMessage, build_post, parse_answer, parse_multipart
from gateway.paging.wap.xml_tree import read_tree

LINK = ServiceLoading("https://shop.example/m?a=b&c=d")
MESSAGE = PushMessage("ab12@push.example.com", "491701234567", "ppg.example.net", LINK, 1_795_996_800)
KANNEL = (
    b'<?xml version="1.0"?><!DOCTYPE pap PUBLIC "-//WAPFORUM//DTD PAP 1.0//EN" '
    b'"http://www.wapforum.org/DTD/pap_1.0.dtd"><pap><push-response push-id="ab12@push.example.com" '
    b'sender-name="wap; WAP/1.3" reply-time="2026-11-27T00:09:45Z" sender-address="/wappush"><response-result '
    b'code ="1001" desc="The request has been accepted for processing"></response-result></push-response></pap>'
)


def test_a_post_has_the_control_entity_and_the_document() -> None:
    posted = build_post(MESSAGE._replace(priority="high", network="GSM", bearer="SMS"))
    control, entity = parse_multipart(posted.content_type, posted.body)
    message = read_tree(control.body).children[0]
    assert message.attributes == {
        "push-id": "ab12@push.example.com",
        "deliver-before-timestamp": "2026-11-30T00:00:00Z",
    }
    address, quality = message.children
    assert address.attributes == {"address-value": "WAPPUSH=+491701234567/TYPE=PLMN@ppg.example.net"}
    assert quality.attributes == {
        "priority": "high",
        "delivery-method": "unconfirmed",
        "network": "GSM",
        "network-required": "true",
        "bearer": "SMS",
        "bearer-required": "true",
    }
    assert entity.headers["content-type"] == "text/vnd.wap.sl; charset=UTF-8"
    assert entity.headers["x-wap-application-id"] == "x-wap-application:wml.ua"
    assert parse_xml(entity.body) == LINK
    assert "49170" not in repr(MESSAGE) + repr(posted) + repr(LINK)


@given(st.text(max_size=40), st.text(max_size=20))
def test_no_text_breaks_out_of_its_part(text: str, push_id: str) -> None:
    document = ServiceIndication("https://x.example/", clean_text(text + "--\r\n]]>&<\"'"))
    posted = build_post(MESSAGE._replace(document=document, push_id=clean_text(push_id)))
    control, entity = parse_multipart(posted.content_type, posted.body)
    assert read_tree(control.body).children[0].attributes["push-id"] == clean_text(push_id)
    assert parse_xml(entity.body) == document


def test_answers_as_they_come() -> None:
    assert parse_answer(KANNEL) == PapAnswer(1001, "ab12@push.example.com")
    bad = b'<pap><badmessage-response code="2000" desc="?" bad-message-fragment="&lt;pap&gt;+49170"/></pap>'
    assert parse_answer(bad) == PapAnswer(2000)
    with_note = b'<pap><push-response push-id="a"><progress-note stage="1"/>'
    with_note += b'<response-result code="1000"/></push-response></pap>'
    assert parse_answer(with_note) == PapAnswer(1000, "a")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html/>",
        b"<pap/>",
        b"<pap><push-response/></pap>",
        b'<pap><push-response><response-result code="0200"/></push-response></pap>',
        b'<pap><push-response><response-result code="6000"/></push-response></pap>',
        b'<pap><push-response><response-result code="1001 "/></push-response></pap>',
        b'<pap><push-response><response-result code="1001"/><response-result code="1001"/></push-response></pap>',
        b'<pap><statusquery-response><response-result code="1001"/></statusquery-response></pap>',
        b'<pap><badmessage-response code="2000"/><badmessage-response code="2000"/></pap>',
        b'<!DOCTYPE pap [<!ENTITY a "1001">]><pap><badmessage-response code="&a;"/></pap>',
        b'<!DOCTYPE a SYSTEM "file:///etc/hosts"><pap><badmessage-response code="1">&a;</badmessage-response></pap>',
    ],
)
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse_answer(body)


@given(
    st.binary(max_size=120),
    st.integers(0, len(KANNEL)),
    st.sampled_from(["", "multipart/related", 'multipart/related; boundary=b; type="application/xml"', "x; boundary"]),
    st.text(max_size=30),
)
def test_bytes_from_outside_raise_their_own_error_alone(data: bytes, at: int, kind: str, odd: str) -> None:
    for body in (data, KANNEL[:at] + data + KANNEL[at:], KANNEL[:at]):
        with contextlib.suppress(BadAnswer):
            parse_answer(body)
        assert parse_exchange(202, {}, body, "x", 0).row.verdict in Verdict
    for content_type in (kind, odd, kind + odd):
        with contextlib.suppress(BadAnswer):
            parse_multipart(content_type, b"--b\r\n" + data + b"\r\n--b--\r\n")


def test_every_code_has_a_row_and_every_row_stands_once() -> None:
    for code in range(1_000, 6_000):
        assert parse_code(code).row in ROWS
    assert len({row.reason for row in ROWS}) == len(ROWS)
    assert [parse_code(row.status).row for row in CODES] == list(CODES)


ANSWER = '<pap><push-response push-id="p"><response-result code="{}"/></push-response></pap>'


@pytest.mark.parametrize(
    ("status", "body", "row", "detail"),
    [
        (202, ANSWER.format(1000), errors.OK, "PAP 1000"),
        (200, ANSWER.format(1001), errors.OK, "PAP 1001"),
        (202, ANSWER.format(2007), errors.DUPLICATE, "PAP 2007"),
        (400, ANSWER.format(2003), parse_code(2003).row, "PAP 2003"),
        (500, ANSWER.format(3000), parse_code(3000).row, "PAP 3000"),
        (202, ANSWER.format(2999), errors.OTHER_2, "PAP 2999"),
        (202, ANSWER.format(3999), errors.OTHER_3, "PAP 3999"),
        (202, ANSWER.format(4999), errors.OTHER_4, "PAP 4999"),
        (202, ANSWER.format(5228), errors.ABORTED, "PAP 5228"),
        (202, ANSWER.format(1001).replace('"p"', '"q"'), GARBAGE, "an answer to another push"),
        (202, "hello", GARBAGE, "garbage"),
        (202, "", GARBAGE, "garbage"),
        (100, "", GARBAGE, "HTTP 100"),
        (401, ANSWER.format(1001), errors.UNAUTHORIZED, "HTTP 401"),
        (403, "", errors.UNAUTHORIZED, "HTTP 403"),
        (302, ANSWER.format(1001), errors.MOVED, "HTTP 302"),
        (404, "<html/>", errors.NOT_THERE, "HTTP 404"),
        (413, "", errors.TOO_LARGE, "HTTP 413"),
        (418, "", errors.REFUSED, "HTTP 418"),
        (408, "", errors.LATER, "HTTP 408"),
        (503, "", errors.LATER, "HTTP 503"),
        (429, "", errors.THROTTLED, "HTTP 429"),
    ],
)
def test_an_answer_is_the_row_of_what_it_says(status: int, body: str, row: Row, detail: str) -> None:
    answer = parse_exchange(status, {"retry-after": "7"}, body.encode(), "p", 0)
    assert (answer.row, answer.detail) == (row, detail)
    if row.fault in (Fault.THROTTLE, Fault.UPSTREAM) and row is not GARBAGE:
        assert answer.retry_after_ms == 7_000


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/xml", b"--b\r\n\r\n\r\n--b--\r\n"),
        ('multipart/related; type="application/xml"', b"--b--\r\n"),
        ("multipart/related; boundary=b", b"--b\r\n\r\n\r\n--b--\r\n"),
        ('multipart/related; boundary=b; type="application/xml"', b"preamble\r\n--b\r\n\r\n\r\n--b--\r\n"),
        ('multipart/related; boundary=b; type="application/xml"', b"--b\r\nA: b\r\n\r\nx\r\n--b--"),
        ('multipart/related; boundary=b; type="application/xml"', b"--b\r\nA: b\r\nx\r\n--b--\r\n"),
        ('multipart/related; boundary=b; type="application/xml"', b"--b\r\nA\r\n\r\nx\r\n--b--\r\n"),
        ('multipart/related; boundary=b; type="application/xml"', b"--b\r\nA: b\r\na: b\r\n\r\nx\r\n--b--\r\n"),
    ],
)
def test_a_multipart_that_is_wrong_is_refused(kind: str, body: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse_multipart(kind, body)
