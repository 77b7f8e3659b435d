"""The HSS asked by Sh (C14) and S6m (C7): what it knows, what it does not, and every refusal."""

from __future__ import annotations

import pytest
from diameter_scene import EXTERNAL_ID, IMPU, IMSI, KNOWN, MSISDN, SECRETS, DiameterScene

from gateway.diameter import codes
from gateway.diameter.avps import Malformed, build_group, build_octets, build_text, build_u32
from gateway.diameter.codes import Application
from gateway.diameter.local import Behaviour, Subscription
from gateway.diameter.node import Refused
from gateway.diameter.s6c import S6cRegister
from gateway.diameter.s6m import S6mRegister
from gateway.diameter.sh import ShHome
from gateway.model.subscribers import Numbers

TEL = "tel:+491701234567"
SUCCESS = build_u32(codes.RESULT_CODE, 2001)


async def test_sh_finds_number_and_imsi_of_a_public_identity() -> None:
    async with DiameterScene() as scene:
        scene.hss.by_impu[TEL] = Subscription(MSISDN, "")
        home = ShHome(scene.node, "hss.example.net")
        assert await home.find(IMPU) == Numbers(MSISDN, IMSI)
        assert await home.find(TEL) == Numbers(MSISDN, "")
        assert await home.find("sip:nobody@example.net") is None
        assert {asked.header.application for asked in scene.hss.requests} == {Application.SH}
    assert scene.hss.faults == []


async def test_an_hss_that_gives_one_thing_at_a_time_is_asked_for_the_number() -> None:
    async with DiameterScene() as scene:
        scene.hss.gives_both = False
        assert await ShHome(scene.node).find(IMPU) == Numbers(MSISDN, "")
        assert len(scene.hss.requests) == 2


@pytest.mark.parametrize("experimental", [4100, 4101, 5002, 5510])
async def test_what_sh_can_not_say_now_is_no_unknown_user(experimental: int) -> None:
    async with DiameterScene() as scene:
        scene.hss.behaviour = Behaviour(experimental=experimental)
        with pytest.raises(Refused):
            await ShHome(scene.node).find(IMPU)


@pytest.mark.parametrize("result", [3002, 3003, 3004, 4001, 5001, 5003, 5012])
async def test_refusals_of_the_base_protocol_are_no_unknown_user(result: int) -> None:
    """5001 is AVP_UNSUPPORTED there, and USER_UNKNOWN among 3GPP's."""
    async with DiameterScene() as scene:
        scene.hss.behaviour = Behaviour(result=result)
        for find, whom in ((ShHome(scene.node).find, IMPU), (S6mRegister(scene.node).find, EXTERNAL_ID)):
            with pytest.raises(Refused):
                await find(whom)


async def test_success_without_data_is_a_user_without_numbers() -> None:
    async with DiameterScene() as scene:
        scene.hss.next.append(Behaviour(avps=SUCCESS))
        assert await ShHome(scene.node).find(IMPU) == Numbers()


@pytest.mark.parametrize(
    "data", [b"<Sh-Data", b"<!DOCTYPE a []><Sh-Data/>", b"\xff\xfe", b"<Sh-Data><IMSI>x</IMSI></Sh-Data>"]
)
async def test_user_data_that_can_not_be_read_is_malformed(data: bytes) -> None:
    async with DiameterScene() as scene:
        scene.hss.next.append(Behaviour(user_data=data))
        with pytest.raises(Malformed):
            await ShHome(scene.node).find(IMPU)


async def test_s6m_finds_whom_an_external_identifier_stands_for() -> None:
    async with DiameterScene() as scene:
        scene.hss.by_external_id["imsi-only@push.example.com"] = Subscription("", IMSI)
        scene.hss.by_external_id["number-only@push.example.com"] = Subscription(MSISDN, "")
        register = S6mRegister(scene.node, "hss.example.net", "pushgw")
        assert await register.find(EXTERNAL_ID) == KNOWN_NUMBERS
        assert await register.find("imsi-only@push.example.com") == Numbers("", IMSI)
        assert await register.find("number-only@push.example.com") == Numbers(MSISDN, "")
        assert await register.find("nobody@push.example.com") is None
        asked = scene.hss.requests[0].avps
        assert asked.first(codes.SCS_IDENTITY) == b"pushgw"
        assert asked.u32(codes.SIR_FLAGS) == 1
    assert scene.hss.faults == []


KNOWN_NUMBERS = Numbers(KNOWN.msisdn, KNOWN.imsi)


async def test_a_service_the_subscriber_does_not_have_is_nobody() -> None:
    async with DiameterScene() as scene:
        scene.hss.next.append(Behaviour(experimental=5511))
        assert await S6mRegister(scene.node).find(EXTERNAL_ID) is None
        scene.hss.next.append(Behaviour(experimental=5510))
        with pytest.raises(Refused):
            await S6mRegister(scene.node).find(EXTERNAL_ID)


@pytest.mark.parametrize(
    "avps",
    [
        SUCCESS,
        SUCCESS + build_group(codes.USER_IDENTIFIER),
        SUCCESS + build_group(codes.USER_IDENTIFIER, build_text(codes.USER_NAME, "001010000000001@example.net")),
        SUCCESS + build_group(codes.USER_IDENTIFIER, build_octets(codes.MSISDN, b"\xff\xff")),
        SUCCESS + build_octets(codes.USER_IDENTIFIER, b"\1\2\3"),
    ],
)
async def test_an_answer_by_s6m_that_names_nobody_is_malformed(avps: bytes) -> None:
    async with DiameterScene() as scene:
        scene.hss.next.append(Behaviour(avps=avps))
        with pytest.raises(Malformed) as caught:
            await S6mRegister(scene.node).find(EXTERNAL_ID)
        assert not [secret for secret in SECRETS if secret in f"{caught.value!r}"]


# --- S6c (C8)


async def test_s6c_fills_in_the_imsi_and_knows_who_is_not_there() -> None:
    async with DiameterScene() as scene:
        scene.hss.by_number.append(KNOWN)
        register = S6cRegister(scene.node, "hss.example.net", "4917000000")
        assert await register.look_up(Numbers(f"+{MSISDN}", "")) == Numbers(MSISDN, IMSI)
        assert await register.look_up(Numbers("", IMSI)) == Numbers("", IMSI)
        assert await register.look_up(Numbers("4999", "")) is None
        asked = scene.hss.requests[0].avps
        assert asked.first(codes.SC_ADDRESS) == bytes.fromhex("9471000000")
        assert asked.u32(codes.SM_DELIVERY_NOT_INTENDED) == 0
        await register.close()
        assert scene.node.open_peers == 1
    assert scene.hss.faults == []


async def test_s6c_does_not_ask_for_what_is_no_number() -> None:
    async with DiameterScene() as scene:
        register = S6cRegister(scene.node)
        for nobody in (Numbers("", ""), Numbers("49 170", "12345"), Numbers("1" * 16, "")):
            assert await register.look_up(nobody) is None
        assert scene.hss.requests == []


@pytest.mark.parametrize(
    ("behaviour", "found"),
    [
        (Behaviour(experimental=5550), Numbers(MSISDN, "", is_away=True)),
        (Behaviour(experimental=5556), None),
        (Behaviour(experimental=5557), None),
        (Behaviour(avps=SUCCESS), Numbers(MSISDN, "")),
    ],
)
async def test_what_s6c_says_of_a_subscriber(behaviour: Behaviour, found: Numbers | None) -> None:
    async with DiameterScene() as scene:
        scene.hss.behaviour = behaviour
        assert await S6cRegister(scene.node).look_up(Numbers(MSISDN, "")) == found


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (Behaviour(result=5012), Refused),
        (Behaviour(experimental=5552), Refused),
        (Behaviour(avps=SUCCESS + build_text(codes.USER_NAME, "ann@example.net")), Malformed),
        (Behaviour(avps=SUCCESS + build_octets(codes.USER_NAME, bytes([0xFF]))), Malformed),
    ],
)
async def test_s6c_that_can_not_say_is_no_unknown_subscriber(behaviour: Behaviour, error: type[Exception]) -> None:
    async with DiameterScene() as scene:
        scene.hss.behaviour = behaviour
        with pytest.raises(error) as caught:
            await S6cRegister(scene.node).look_up(Numbers(MSISDN, ""))
        assert not [secret for secret in (*SECRETS, "ann@") if secret in f"{caught.value!r}"]
