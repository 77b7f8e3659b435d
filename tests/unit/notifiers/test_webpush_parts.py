"""Parts of the Web Push notifier by themselves: encryption, topics, where a host may lead, origins."""

from __future__ import annotations

import asyncio
import re

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.model.public_addresses import is_public
from gateway.notifiers.webpush.addresses import MAX_LOOKUPS, MAX_WAITING, SLOW_LOOKUPS, Addresses
from gateway.notifiers.webpush.client import build_topic
from gateway.notifiers.webpush.encryption import MAX_BODY_BYTES, MAX_PLAIN_BYTES, encrypt
from gateway.notifiers.webpush.local import decrypt
from gateway.notifiers.webpush.settings import decode, encode
from gateway.notifiers.webpush.subscription import parse_subscription


def test_the_vector_of_rfc_8291_appendix_a_byte_for_byte() -> None:
    plain = b"When I grow up, I want to be a watermelon"
    sender = ec.derive_private_key(
        int.from_bytes(decode("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw")), ec.SECP256R1()
    )
    receiver = ec.derive_private_key(
        int.from_bytes(decode("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94")), ec.SECP256R1()
    )
    point = decode("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4")
    auth, salt = decode("BTBZMqHH6r4Tts7J_aSIgg"), decode("DGv6ra1nlYgDCS1FRnbzlw")
    expected = decode(
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK"
        "6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )
    assert encrypt(plain, point, auth, salt=salt, key=sender) == expected
    assert decrypt(expected, receiver, auth) == plain


def test_the_longest_message_fits_into_the_body_a_service_takes() -> None:
    browser = ec.generate_private_key(ec.SECP256R1())
    numbers = browser.public_key().public_numbers()
    point = b"\4" + numbers.x.to_bytes(32) + numbers.y.to_bytes(32)
    body = encrypt(b"x" * MAX_PLAIN_BYTES, point, b"a" * 16)
    assert len(body) == MAX_BODY_BYTES
    assert decrypt(body, browser, b"a" * 16) == b"x" * MAX_PLAIN_BYTES
    with pytest.raises(ValueError, match="not for this key"):
        decrypt(body, browser, b"b" * 16)


@pytest.mark.parametrize("key", ["k", "k" * 500, "ключ", "a b\n"])
def test_topic_is_short_enough_and_tells_nothing(key: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,32}", build_topic(key))
    assert build_topic(key) != build_topic(key + "x")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "192.0.0.8",
        "192.0.0.192",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2001:0:1::",
        "3fff::1",
        "192.88.99.1",
        "not an address",
    ],
)
def test_address_that_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_address_that_is_public(address: str) -> None:
    assert is_public(address)


async def test_name_is_connected_to_at_the_address_that_was_checked() -> None:
    asked: list[str] = []
    answers = [["10.0.0.1", "2606:4700::1111", "8.8.8.8"], ["127.0.0.1"]]

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    now_ms = [0]
    addresses = Addresses(allows_private=False, clock=lambda: now_ms[0], resolve=resolve)
    assert await addresses.pick("push.example", 443, allows_private=False) == "8.8.8.8"
    assert await addresses.pick("push.example", 443, allows_private=False) == "8.8.8.8"
    assert asked == ["push.example"]  # kept, so a name that changes its mind changes nothing yet
    now_ms[0] = 60_000
    # Known and checked, so it is used while it is looked up again; what comes back is checked too.
    assert await addresses.pick("push.example", 443, allows_private=False) == "8.8.8.8"
    while await addresses.pick("push.example", 443, allows_private=False) is not None:
        await asyncio.sleep(0)
    assert await addresses.pick("push.example", 443, allows_private=True) == "127.0.0.1"
    assert len(asked) == 2


async def test_names_whose_servers_hang_do_not_hold_up_one_that_is_known() -> None:
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        if host != "push.example":
            await asyncio.Event().wait()
        return ["8.8.8.8"]

    now_ms = [0]
    addresses = Addresses(allows_private=False, clock=lambda: now_ms[0], resolve=resolve)
    await addresses.pick("push.example", 443, allows_private=False)
    hung = [asyncio.create_task(addresses.pick(f"evil{n}", 443, allows_private=False)) for n in range(40)]
    hung += [asyncio.create_task(addresses.pick("evil0", 443, allows_private=False)) for n in range(9)]
    while len(asked) <= MAX_LOOKUPS:
        await asyncio.sleep(0)
    now_ms[0] = 3_000_000
    assert await addresses.pick("push.example", 443, allows_private=False) == "8.8.8.8"
    assert len(asked) == 1 + MAX_LOOKUPS  # so many at once, and those are taken
    for task in hung:
        task.cancel()
    await asyncio.gather(*hung, return_exceptions=True)
    await addresses.close()


def test_origin_is_what_a_browser_calls_it() -> None:
    keys = {"p256dh": encode(b"\4" + b"\1" * 64), "auth": encode(b"a" * 16)}

    def origin(endpoint: str) -> str:
        found = parse_subscription(msgspec.json.encode({"endpoint": endpoint, "keys": keys}).decode())
        assert found
        return found.origin

    assert origin("https://Push.Example:443/a?b=c") == "https://push.example"
    assert origin("https://push.example:8443") == "https://push.example:8443"
    assert origin("https://[2606:4700::1111]/x") == "https://[2606:4700::1111]"


async def test_names_of_one_app_that_never_answer_leave_the_others_their_turn() -> None:
    stuck = asyncio.Event()

    async def resolve(host: str, port: int) -> list[str]:
        if host.startswith("slow"):
            await stuck.wait()
        return ["93.184.216.34"]

    addresses = Addresses(allows_private=False, clock=lambda: 0, resolve=resolve)
    slow = [
        asyncio.create_task(addresses.pick(f"slow{n}", 443, allows_private=False, whose="shop"))
        for n in range(MAX_WAITING + 1)
    ]
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        assert await addresses.pick("good", 443, allows_private=False, whose="other") == "93.184.216.34"
    with pytest.raises(OSError, match="too many names"):
        await slow[-1]
    stuck.set()
    assert await slow[0] == "93.184.216.34"
    await asyncio.gather(*slow, return_exceptions=True)
    await addresses.close()


async def test_apps_whose_names_never_answer_keep_no_other_from_a_new_name() -> None:
    asked: list[str] = []
    stuck = asyncio.Event()

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        if host.startswith("slow"):
            await stuck.wait()
        return ["93.184.216.34"]

    addresses = Addresses(allows_private=False, clock=lambda: 0, resolve=resolve, lookup_s=0.001)

    def start(name: str, apps: int) -> list[asyncio.Task[str | None]]:
        return [
            asyncio.create_task(addresses.pick(f"{name}{n}", 443, allows_private=False, whose=f"app{n}"))
            for n in range(apps)
        ]

    for task in start("slow-", MAX_LOOKUPS):
        with pytest.raises(OSError, match="in time"):
            await task
    # The resolver is at it still, for nobody can stop it.
    stuck.set()
    addresses.lookup_s = 30.0
    while len(addresses):
        await asyncio.sleep(0)
    stuck.clear()
    asked.clear()
    hung = start("slow+", MAX_LOOKUPS)
    while len(asked) < SLOW_LOOKUPS:
        await asyncio.sleep(0)
    assert await addresses.pick("good", 443, allows_private=False, whose="other") == "93.184.216.34"
    assert len(asked) == SLOW_LOOKUPS + 1
    stuck.set()
    assert await asyncio.gather(*hung) == ["93.184.216.34"] * MAX_LOOKUPS
    await addresses.close()


async def test_answer_that_comes_too_late_serves_the_next_one() -> None:
    late = asyncio.Event()
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        await late.wait()
        return ["93.184.216.34"]

    addresses = Addresses(allows_private=False, clock=lambda: 0, resolve=resolve, lookup_s=0.001)
    with pytest.raises(OSError, match="in time"):
        await addresses.pick("push.example", 443, allows_private=False, whose="shop")
    late.set()
    while len(addresses):
        await asyncio.sleep(0)
    assert await addresses.pick("push.example", 443, allows_private=False, whose="shop") == "93.184.216.34"
    assert asked == ["push.example"]
    await addresses.close()
