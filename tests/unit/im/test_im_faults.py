"""Everything goes wrong at random: what was accepted ends in exactly one result, order is kept, no log has a message
twice, and nothing a network brought is missing."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import pytest
from im_heart import Heart, until
from im_scripted_network import Box, IdempotentNetwork, ScriptedNetwork, hang, raising

from gateway.model.errors import GatewayError
from gateway.model.im import Rejected, Transient
from gateway.model.im_people import AccountState, ItemKind

Build = Callable[..., Heart]

USERS = 6
MESSAGES = 120


class Chaos:
    def __init__(self, heart: Heart, seed: int) -> None:
        self.heart = heart
        self.dice = random.Random(seed)
        self.accepted: dict[bytes, list[tuple[int, str]]] = {}
        self.said: dict[bytes, list[str]] = {}

    def trouble(self, box: Box, token: bytes) -> None:
        dice = self.dice
        match dice.randrange(9):
            case 0:
                box.cut()
            case 1:
                box.cut(OSError("gone"))
            case 2:
                box.before_send.append(raising(Transient("busy")))
            case 3:
                box.before_send.append(raising(Rejected("no")))
            case 4:
                box.after_send.append(dice.choice([hang, raising(ConnectionResetError())]))
            case 5:
                box.before_open.append(dice.choice([hang, raising(Transient("down")), raising(KeyError("x"))]))
            case 6:
                self.heart.log.failing += 1
            case 7:
                self.heart.door.go(token)
            case 8:
                self.heart.log.is_down = not self.heart.log.is_down

    async def live(self, name: str, number: int) -> None:
        heart, dice = self.heart, self.dice
        user, token, box = name.encode().ljust(16, b"."), name.encode(), heart.box(name)
        accepted = self.accepted.setdefault(user, [])
        said = self.said.setdefault(user, [])
        for place in range(MESSAGES):
            if dice.random() < 0.3:
                self.trouble(box, token)
            if dice.random() < 0.5:
                heart.door.come(token)
            if dice.random() < 0.7:
                try:
                    verdict = await heart.send(user, number, f"out {place}")
                except GatewayError:
                    pass
                else:
                    if verdict.state == "accepted":
                        accepted.append((verdict.number, f"out {place}"))
            text = f"in {place}"
            box.say(text)
            said.append(text)
            await asyncio.sleep(dice.random() * 0.01)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("network", [ScriptedNetwork, IdempotentNetwork])
async def test_whatever_fails_histories_are_whole(
    build_heart: Build, network: type[ScriptedNetwork], seed: int
) -> None:
    heart = build_heart(network(), request_s=0.05, connect_s=0.05, linger_s=0.01, breaker_s=0.02)
    chaos = Chaos(heart, seed)
    numbers = {}
    for place in range(USERS):
        name = f"u{place}"
        numbers[name] = heart.bind(heart.user(name), name, host=f"h{place % 2}")
    await asyncio.gather(*(chaos.live(name, number) for name, number in numbers.items()))
    # calm
    heart.log.is_down, heart.log.failing = False, 0
    for name, number in numbers.items():
        box = heart.box(name)
        for script in (box.before_open, box.before_send, box.after_send):
            script.clear()
        heart.door.come(name.encode())
        await until(lambda number=number: heart.supervisor.state(number) is AccountState.CONNECTED, 10)
    for name, number in numbers.items():
        user = name.encode().ljust(16, b".")
        await until(lambda number=number: not heart.log.outgoing(number), 20)
        await until(lambda user=user: chaos.said[user][-1] in heart.texts(user), 20)
        await until(lambda name=name, user=user: heart.accounts.cursors[numbers[name]] == b"%d" % MESSAGES, 20)
        check(heart, chaos, name, user, is_idempotent=heart.network.caps.idempotent)


def check(heart: Heart, chaos: Chaos, name: str, user: bytes, *, is_idempotent: bool) -> None:
    accepted = chaos.accepted[user]
    results = Counter(number for number, _, _ in heart.results(user))
    assert set(results.values()) <= {1}, "a second result"
    assert set(results) == {number for number, _ in accepted}, "without a result, or one of nothing"
    texts = heart.texts(user)
    assert max(Counter(texts).values()) == 1, "twice in the log"
    assert [text for text in texts if text.startswith("in ")] == chaos.said[user], "a gap, or another order"
    order = {text: place for place, (_, text) in enumerate(accepted)}
    sent = [text for _, text in heart.box(name).sent]
    assert max(Counter(sent).values(), default=1) == 1, "twice on the network"
    assert [text for text in sent if text in order] == sorted((t for t in sent if t in order), key=order.__getitem__)
    good = {number for number, state, _ in heart.results(user) if state == "sent"}
    by_number = dict(accepted)
    assert {by_number[number] for number in good} <= set(sent), "called sent, and was not"
    logged = {text for text in texts if text.startswith("out ")}
    assert {by_number[number] for number in good} <= logged
    # in RAM a result and its message are two commits: where one failed and the session ended then, it is in doubt
    in_doubt = {by_number[number] for number, _, reason in heart.results(user) if "may have arrived" in reason}
    assert logged <= {by_number[number] for number in good} | in_doubt
    if is_idempotent:
        failed = {reason for _, state, reason in heart.results(user) if state == "failed"}
        assert failed <= {"no"}
    assert not any(item.kind is ItemKind.GAP for item in heart.log.items[user])
