"""One-time codes by short message: on the pagers' links, valid as long as the code, and an error without a number."""

from __future__ import annotations

import pytest
from sms_scene import MSISDN, SmsScene

from gateway.model.errors import CodeNotSent
from gateway.paging.sms.code_messages import SmsCodes
from gateway.paging.sms.local import Behaviour


async def test_a_code_reaches_the_number_and_asks_for_no_receipt() -> None:
    async with SmsScene() as scene:
        await SmsCodes(scene.config, scene.bearer).send("+" + MSISDN, "123456")
        (sm,) = [each.message for each in scene.smsc.submissions]
    assert sm.destination.digits == MSISDN
    assert b"123456" in sm.message
    assert sm.registered_delivery == 0
    assert scene.history.steps == []


@pytest.mark.parametrize("behaviour", [Behaviour(status=0x0B), Behaviour(status=0x58), Behaviour(closes=True)])
async def test_what_no_smsc_takes_is_said_without_the_number(behaviour: Behaviour) -> None:
    async with SmsScene() as scene:
        scene.smsc.behaviour = behaviour
        with pytest.raises(CodeNotSent) as caught:
            await SmsCodes(scene.config, scene.bearer).send("+" + MSISDN, "123456")
    assert MSISDN not in caught.value.message
    assert "123456" not in caught.value.message
