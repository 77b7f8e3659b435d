"""The operator's routes to cards: what they take, what they refuse, and that no answer shows who a card is (E1, E5)."""

from __future__ import annotations

import json
from typing import Any

import httpx
import msgspec
import pytest
import structlog
from api_doubles import Door, error_of
from card_door_doubles import ICCID, IMSI, KIC, KID, MSISDN, WHO, CardHouse, card_in
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.cards.bodies import build_record, decode_hidden
from gateway.api.cards.wire import CardIn
from gateway.api.media import JSON, NDJSON
from gateway.model.cards import Ability, Capability, Evidence, parse_card_id
from gateway.model.errors import BadRequest, QueueFull, StoreUnavailable
from gateway.ota.packet_security import Algorithm


def record_of(house: CardHouse, card: str) -> Any:
    handle = parse_card_id(card)
    assert handle is not None
    return house.records.cards[handle]


def lines(*cards: dict[str, Any]) -> bytes:
    return b"\n".join(json.dumps(card).encode() for card in cards)


async def post(house: CardHouse, content: bytes, status: int = 200) -> Any:
    return await house.operator(
        "POST", "/v1/cards", status, content=content, headers={"content-type": "application/x-ndjson"}
    )


async def test_a_card_is_brought_in_found_shown_and_taken_away():
    house = CardHouse()
    card = await house.add()
    kept = record_of(house, card)
    assert (kept.iccid, kept.imsi, kept.msisdn, kept.push_keys, kept.data_keys) == (ICCID, IMSI, MSISDN, 1, 2)
    assert (kept.tar, kept.push_tar, kept.tags) == (b"\xb0\x00\x11", b"\xb0\x00\x11", ("batch-7",))
    assert kept.key_sets[0].kic.hex() == KIC
    assert kept.key_sets[0].algorithm == Algorithm.AES
    for number in ({"iccid": ICCID}, {"imsi": IMSI}, {"msisdn": "0044 7700 900 123"}):
        assert await house.operator("POST", "/v1/cards/find", json=number) == {"card": card}
    shown = await house.operator("GET", f"/v1/cards/{card}")
    assert shown["tags"] == ["batch-7"]
    assert (shown["key_sets"], shown["push_keys"], shown["data_keys"]) == ([1, 2], 1, 2)
    assert shown["capability"]["state"] == "unknown"
    assert not {"iccid", "imsi", "msisdn", "kic", "kid"} & set(shown)
    await house.operator("DELETE", f"/v1/cards/{card}", 204)
    for method, path in (("GET", card), ("DELETE", card), ("GET", f"{card}/capability"), ("POST", f"{card}/check")):
        assert (await house.operator(method, f"/v1/cards/{path}", 404))["error"]["name"] == "unknown_card"
    await house.operator("POST", "/v1/cards/find", 404, json={"iccid": ICCID})


async def test_many_come_in_one_request_and_each_has_its_result():
    house = CardHouse()
    bad = card_in(iccid="8944123456789012345x")
    other = card_in(iccid="89441234567890123457", imsi=None, msisdn="+447700900124", tags=[])
    third = card_in(iccid="89441234567890123458", imsi="234151234567892", msisdn=None)
    body = await post(house, lines(card_in(), bad, other) + b"\n\n" + lines(third))
    assert (body["imported"], body["refused"]) == (3, 1)
    assert [result["line"] for result in body["cards"]] == [1, 2, 3, 4]
    refused = body["cards"][1]
    assert refused["error"]["field"] == "iccid"
    assert "card" not in refused
    assert house.records.puts == [3], "one commit for all"


async def test_a_number_that_is_another_cards_is_refused_and_the_rest_comes_in():
    house = CardHouse()
    await house.add()
    thief = card_in(iccid="89441234567890123457", imsi=None)
    honest = card_in(iccid="89441234567890123458", imsi=None, msisdn="+447700900125")
    body = await post(house, lines(thief, honest))
    assert (body["imported"], body["refused"]) == (1, 1)
    error = body["cards"][0]["error"]
    assert (error["name"], error["field"]) == ("conflict", "msisdn")


async def test_the_same_card_or_number_twice_in_one_request_is_said():
    house = CardHouse()
    body = await post(
        house, lines(card_in(), card_in(msisdn="+447700900199"), card_in(iccid="89441234567890123457", imsi=None))
    )
    assert body["imported"] == 1
    assert [result["error"]["field"] for result in body["cards"][1:]] == ["iccid", "msisdn"]
    assert "line 1" in body["cards"][1]["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"iccid": "123"}, "iccid"),
        ({"iccid": None}, "iccid"),
        ({"imsi": "12"}, "imsi"),
        ({"msisdn": "07700900123"}, "msisdn"),
        ({"msisdn": None, "imsi": None}, "msisdn"),
        ({"key_sets": []}, "key_sets"),
        ({"key_sets": [{"number": 16, "kic": KIC, "kid": KID}]}, "key_sets[0].number"),
        ({"key_sets": [{"number": 0, "kic": KIC, "kid": KID}]}, "key_sets[0].number"),
        ({"key_sets": [{"number": 1, "kic": KIC[2:], "kid": KID}]}, "key_sets[0].kic"),
        ({"key_sets": [{"number": 1, "kic": KIC, "kid": KID + "zz"}]}, "key_sets[0].kid"),
        ({"key_sets": [{"number": 1, "kic": KIC, "kid": KID, "algorithm": "3des3"}]}, "key_sets[0].kic"),
        ({"key_sets": [{"number": 1, "kic": KIC, "kid": KID, "algorithm": KIC}]}, "key_sets[0].algorithm"),
        # both halves of KIC are the same: with 3DES it is no more than single DES
        ({"key_sets": [{"number": 1, "kic": KIC, "kid": KID, "algorithm": "3des2"}]}, "key_sets[0].kic"),
        ({"key_sets": [{"number": 1, "kic": KIC, "kid": KID, KIC: 1}]}, "key_sets[0]"),
        ({"key_sets": [{"number": 1, "kic": KIC, "kid": KID}] * 2}, "key_sets"),
        ({"push_keys": 3}, "push_keys"),
        ({"data_keys": 15}, "data_keys"),
        ({"tar": "B000"}, "tar"),
        ({"push_tar": "xyzxyz"}, "push_tar"),
        ({"bearer": "0301"}, "bearer"),
        ({"apn": "a..b"}, "apn"),
        ({"tags": ["a\nb"]}, "tags[0]"),
        ({ICCID: "what"}, None),
    ],
)
async def test_the_field_that_is_wrong_is_named_and_nothing_of_it_repeated(changes, field):
    house = CardHouse()
    body = await post(house, lines(card_in(**changes)))
    assert (body["imported"], body["refused"]) == (0, 1)
    assert body["cards"][0]["error"]["field"] == field
    assert body["cards"][0]["error"]["name"] == "bad_request"


@given(
    st.binary(max_size=200)
    | st.dictionaries(
        st.sampled_from(list(CardIn.__struct_fields__)) | st.text(max_size=5),
        st.text(max_size=20) | st.integers() | st.none() | st.lists(st.dictionaries(st.text(max_size=6), st.text())),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_a_card_or_a_bad_request(body: bytes) -> None:
    try:
        record = build_record(decode_hidden(body, CardIn, JSON))
    except BadRequest:
        return
    assert 18 <= len(record.iccid) <= 20


@given(st.sampled_from(["iccid", "imsi", "msisdn", "tar", "apn", "bearer"]), st.text(max_size=24))
def test_no_refusal_repeats_what_was_given(field: str, text: str) -> None:
    text = "7391" + text + "5520"
    body = json.dumps(card_in(**{field: text})).encode()
    message = ""
    try:
        build_record(decode_hidden(body, CardIn, JSON))
    except BadRequest as error:
        message = error.message
    assert text not in message


async def test_a_request_has_its_bounds():
    house = CardHouse(import_cards=2, import_bytes=2_000)
    three = lines(*(card_in(iccid=f"8944123456789012345{n}", imsi=None, msisdn=f"+44770090012{n}") for n in range(3)))
    assert (await post(house, three, 413))["error"]["name"] == "payload_too_large"
    assert (await post(house, b"{" * 2_001, 413))["error"]["name"] == "payload_too_large"
    assert house.records.cards == {}
    for content, kind in ((b"[1", JSON), (b"{}", JSON), (b"\x93", "application/msgpack")):
        headers = {"content-type": kind, "accept": JSON}
        await house.operator("POST", "/v1/cards", 400, content=content, headers=headers)
    await house.operator("POST", "/v1/cards", 415, content=b"a,b", headers={"content-type": "text/csv"})
    assert await post(house, b"") == {"imported": 0, "refused": 0, "cards": []}
    big = await house.operator("POST", "/v1/cards", content=b"x" * 1_999, headers={"content-type": NDJSON})
    assert big["cards"][0]["error"]["name"] == "bad_request"


async def test_msgpack_is_taken_too():
    house = CardHouse()
    content = msgspec.msgpack.encode([card_in()])
    headers = {"content-type": "application/msgpack", "accept": "application/json"}
    assert (await house.operator("POST", "/v1/cards", content=content, headers=headers))["imported"] == 1


async def test_a_store_that_can_not_be_written_is_told_card_by_card():
    house = CardHouse()
    house.records.write_error = StoreUnavailable()
    body = await post(house, lines(card_in()))
    assert body["cards"][0]["error"]["name"] == "store_unavailable"
    house.records.write_error, house.records.commit_error = None, QueueFull()
    body = await post(house, lines(card_in()))
    assert (body["refused"], body["cards"][0]["error"]["retry_after_ms"]) == (1, 1_000)


async def test_cards_are_listed_in_pages_by_tag_and_capability():
    house = CardHouse()
    cards = []
    for n in range(25):
        tags = ["even"] if n % 2 == 0 else ["odd"]
        cards.append(
            await house.add(iccid=f"894412345678901230{n:02}", imsi=None, msisdn=f"+4477009001{n:02}", tags=tags)
        )
    for card in cards[:5]:
        handle = parse_card_id(card)
        assert handle is not None
        house.records.capabilities[handle] = Capability(Ability.CAPABLE, 1)

    async def all_of(**query: Any) -> set[str]:
        found: list[str] = []
        after = None
        for _ in range(50):
            page = await house.operator("GET", "/v1/cards", params={**query, **({"after": after} if after else {})})
            assert page["count"] == 25
            found += page["cards"]
            after = page["after"]
            if after is None:
                assert len(set(found)) == len(found)
                return set(found)
        raise AssertionError("it never ends")

    assert await all_of() == set(cards)
    for limit in (1, 7, 25):
        assert await all_of(limit=limit) == set(cards)
        assert await all_of(limit=limit, tag="even") == set(cards[::2])
    assert await all_of(capability="capable") == set(cards[:5])
    assert await all_of(capability="unknown", tag="odd") == set(cards[5::2])
    for query in ({"capability": "perhaps"}, {"after": "card_"}, {"limit": 0}):
        assert (await house.operator("GET", "/v1/cards", 400, params=query))["error"]["field"] in query


async def test_what_is_known_of_a_terminal_and_the_evidence_for_the_operator_alone():
    house = CardHouse()
    card = await house.add()
    handle = parse_card_id(card)
    assert handle is not None
    evidence = (Evidence(3, "call", 0), Evidence(7, "link_opened", 1, "4.2 s"))
    house.records.capabilities[handle] = Capability(Ability.CAPABLE, 7, 1 << 50, evidence)
    seen = await house.operator("GET", f"/v1/cards/{card}/capability")
    assert (seen["state"], seen["since_ms"]) == ("capable", 7)
    assert [line["what"] for line in seen["evidence"]] == ["call", "link_opened"]
    told = await house.provider("GET", f"/v1/cards/{card}/capability")
    assert (told["state"], told["evidence"]) == ("capable", None)
    changed = await house.operator("POST", f"/v1/cards/{card}/terminal-changed")
    assert (changed["state"], changed["evidence"][-1]["what"]) == ("unknown", "terminal_changed")
    assert await house.operator("POST", f"/v1/cards/{card}/check", 202) == {"asked": True}
    house.engine.is_busy = True
    error = (await house.operator("POST", f"/v1/cards/{card}/check", 503))["error"]
    assert error["name"] == "queue_full"
    assert house.engine.asked == [handle, handle]


async def test_what_is_past_its_time_is_not_known():
    house = CardHouse()
    card = await house.add()
    handle = parse_card_id(card)
    assert handle is not None
    house.records.capabilities[handle] = Capability(Ability.CAPABLE, 7, 1_000)
    assert (await house.operator("GET", f"/v1/cards/{card}"))["capability"]["state"] == "unknown"


async def test_an_apps_key_may_not_touch_cards():
    house = CardHouse()
    card = await house.add()
    for method, path in (
        ("POST", "/v1/cards"),
        ("GET", "/v1/cards"),
        ("POST", "/v1/cards/find"),
        ("GET", f"/v1/cards/{card}"),
        ("DELETE", f"/v1/cards/{card}"),
        ("POST", f"/v1/cards/{card}/terminal-changed"),
        ("POST", f"/v1/cards/{card}/check"),
    ):
        assert (await house.provider(method, path, 403))["error"]["name"] == "forbidden"
    async with house.door.client() as client:
        assert (await client.get(f"/v1/cards/{card}/capability")).status_code == 401


@pytest.mark.parametrize("text", ["x", "card_", "card_" + "0" * 31, "card_" + "g" * 32, "CARD_" + "0" * 32, "%00"])
async def test_what_is_no_id_of_a_card_is_as_unknown(text):
    assert (await CardHouse().operator("GET", f"/v1/cards/{text}", 404))["error"]["name"] == "unknown_card"


async def test_where_nothing_is_done_for_cards_the_fix_is_named():
    door = Door()
    async with door.operator() as client:
        for method, path in (("POST", "/v1/cards"), ("GET", "/v1/cards"), ("POST", "/v1/cards/find")):
            error = error_of(await client.request(method, path, json={}))
            assert (error["name"], error["code"]) == ("not_configured", 45)
            assert "ota.port" in error["message"]
    async with door.provider() as client:
        error = error_of(await client.get("/v1/downloads"))
        assert error["name"] == "not_configured"


async def test_no_log_line_names_a_card():
    house = CardHouse()
    with structlog.testing.capture_logs() as captured:
        card = await house.add()
        await house.operator("POST", "/v1/cards/find", 404, json={"msisdn": "+447700900999"})
        await house.operator("GET", f"/v1/cards/{card}")
        house.records.cards = None  # type: ignore[assignment]
        async with house.door.operator(transport=httpx.ASGITransport(house.door.asgi, raise_app_exceptions=False)) as c:
            assert (await c.post("/v1/cards/find", json={"msisdn": MSISDN})).status_code == 500
    text = str(captured)
    for word in (*WHO, "447700900999", card):
        assert word not in text
