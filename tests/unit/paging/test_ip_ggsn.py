"""What a GGSN's command line says, as osmo-ggsn has it, and any text at all (C11)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ip_scene import subscriber

from gateway.paging.ip.ggsn import OsmoGgsn, parse_contexts
from gateway.paging.ip.local_ggsn import LocalGgsn

#: as osmo-ggsn 1.9 wrote it
SEEN = (
    "show pdp-context ggsn ggsn0 imsi 240010123456789\r\nIMSI: 240010123456789, NSAPI: 0, MSISDN: (NONE)\r\n"
    " Version: 1, Primary, Num Secondaries: 0\r\n Control: 127.0.77.2:00000001 <-> 127.0.77.3:00000001\r\n"
    " Data: 127.0.77.2:00000001 <-> 127.0.77.3:00000001\r\n APN requested: internet\r\n APN in use: internet\r\n"
    " End-User Address (IPv4): 172.16.217.2\r\n Transmit GTP Sequence Number for G-PDU: Yes\r\n"
)
LINES = st.sampled_from(
    [*SEEN.splitlines(), "% No such PDP context found", " APN in use: ", " End-User Address (IPv6): x"]
)


def test_a_context_as_it_was_seen() -> None:
    (context,) = parse_contexts(SEEN)
    assert (context.imsi, context.apn) == ("240010123456789", "internet")
    assert context.addresses == (ip_address("172.16.217.2"),)
    assert "172" not in repr(context)


def test_several_contexts_and_none() -> None:
    contexts = parse_contexts(SEEN + SEEN.replace("172.16.217.2", "172.16.217.3").replace(": internet", ": ims"))
    assert [each.apn for each in contexts] == ["internet", "ims"]
    assert parse_contexts("% No such PDP context found\r\n") == []


@pytest.mark.parametrize(
    "text",
    ["", "% No such GGSN 'x'\r\n", "% Unknown command.\r\n", "hello", SEEN.replace("172.16.217.2", "999.1.1.1")],
)
def test_what_is_no_answer(text: str) -> None:
    with pytest.raises(ValueError, match="GGSN"):
        parse_contexts(text)


@given(st.one_of(st.text(max_size=200), st.lists(LINES, max_size=12).map("\r\n".join)))
def test_any_text_is_contexts_or_no_answer(text: str) -> None:
    try:
        contexts = parse_contexts(text)
    except ValueError:
        return
    assert all(each.imsi.isdigit() for each in contexts)


@pytest.mark.parametrize("imsi", ["1; terminate", "001010\r\nenable", "", "12345", "0" * 16, "٠٠١٠١٠١"])
async def test_only_digits_are_ever_asked_for(imsi: str) -> None:
    ggsn = LocalGgsn()
    port = await ggsn.start()
    try:
        assert await OsmoGgsn("127.0.0.1", port, "ggsn0", 2.0).look_up(subscriber(imsi=imsi)) is None
        assert ggsn.asked == 0
    finally:
        await ggsn.close()
