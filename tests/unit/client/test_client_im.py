"""What one user's device gives the next: nothing (A5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from gateway.client.im import Im
from gateway.client.registration import Registration
from gateway.model.errors import NotSignedIn


class Told:
    """A registration of which somebody else's user can take hold between two questions."""

    def __init__(self, user: str = "") -> None:
        self.user = user
        self.next_user = ""
        self.drops = 0
        self.is_signed_out = False
        self.on_verify: Callable[[], object] = lambda: None

    def drop(self) -> None:
        self.drops += 1

    async def ask(self, op: str, body: bytes = b"") -> bytes:
        if op == "profile" and not self.user:
            raise NotSignedIn
        if op == "verify":
            self.on_verify()
            self.user = self.next_user
        if op == "sign_out" and self.is_signed_out:
            raise NotSignedIn
        if op == "sign_out":
            self.user = ""
        return cast("bytes", msgspec.msgpack.encode({"user": self.user}))


async def verify(im: Im, told: Told, user: str) -> None:
    told.next_user = user
    await im.verify("a@mail.example", "123456")


def client(told: Told) -> Im:
    return Im(cast("Registration", cast("Any", told)))


async def test_another_user_finds_nothing_of_the_one_before():
    told = Told("ann")
    im = client(told)
    im.cursor = 7
    await verify(im, told, "bob")
    assert (told.drops, im.cursor) == (1, 0)
    await verify(im, told, "bob")  # the same again
    assert told.drops == 1


async def test_nor_where_the_one_before_was_signed_out_elsewhere_first():
    told = Told()
    im = client(told)
    await verify(im, told, "ann")
    told.drops = 0
    told.user = ""
    await verify(im, told, "bob")
    assert told.drops == 1


async def test_nor_where_nobody_knows_who_the_one_before_was():
    """The app was started anew, only read items, and the user signed out on another device."""
    told = Told("ann")
    im = client(told)
    im.cursor = 500
    told.user = ""
    told.on_verify = lambda: drops.append(told.drops)
    drops: list[int] = []
    await verify(im, told, "bob")
    assert (drops, told.drops, im.cursor) == ([1], 1, 0)  # before it was bob's, for what comes behind that is his


async def test_a_sign_out_whose_answer_was_lost_leaves_nothing():
    told = Told("ann")
    im = client(told)
    im.cursor = 7
    told.is_signed_out = True
    with pytest.raises(NotSignedIn):
        await im.ask("sign_out")
    assert (told.drops, im.cursor) == (1, 0)
    with pytest.raises(NotSignedIn):
        await im.ask("sign_out", key="hs_1")  # of a session of REST
    assert told.drops == 1


async def test_who_signs_out_leaves_nothing():
    told = Told("ann")
    im = client(told)
    im.cursor = 7
    await im.ask("sign_out")
    assert (told.drops, im.cursor) == (1, 0)


async def test_who_ends_a_session_of_rest_is_still_there():
    told = Told("ann")
    im = client(told)
    im.cursor = 7
    await im.ask("sign_out", key="hs_1")
    assert (told.drops, im.cursor) == (0, 7)
    await im.ask("sign_out", key="hs_1", everywhere=True)
    assert (told.drops, im.cursor) == (1, 0)
