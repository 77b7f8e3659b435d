"""Accounts that users bind: the form, names, limits; and that nothing of what was typed is ever said again."""

from __future__ import annotations

import traceback

import msgspec
import pytest
from im_ust_rig import ANNA, BERT, FormNetwork, UstRig, rig_in_ram

from gateway.im.operations.accounts import Bind
from gateway.model.errors import BadRequest, Conflict, GatewayError, NotFound
from gateway.model.im import Contact
from gateway.model.im_people import AccountState

FORM = {"address": "anna@paper.example", "password": "open sesame"}


async def _bind(rig: UstRig, user: bytes, name: str = "sina", **form: str) -> int:
    account = await rig.do("bind", user, network="paper", name=name, credentials={**FORM, **form})
    number: int = account["number"]
    return number


async def test_networks_say_what_they_need_and_can(rig: UstRig) -> None:
    networks = (await rig.do("networks"))["networks"]
    assert [one["name"] for one in networks] == ["paper"]
    assert networks[0]["can"] == ["contacts", "media"]
    assert networks[0]["form"][1] == {"name": "password", "label": "Password", "is_secret": True}


async def test_a_bound_account_is_sealed_listed_and_handed_to_supervision(rig: UstRig) -> None:
    anna = await rig.sign_up(ANNA)
    number = await _bind(rig, anna)
    assert rig.supervision.calls == [("bound", number)]
    rig.supervision.states[number] = AccountState.CONNECTED
    listed = (await rig.do("accounts", anna))["accounts"]
    assert listed == [
        {"number": number, "network": "paper", "name": "sina", "state": "connected", "created_ms": rig.now_ms}
    ]
    account = rig.accounts.account(number)
    assert rig.accounts.unseal(account) == {**FORM, "server": "paper.example"}
    assert rig.gate.own_account(anna, "SINA ") == rig.gate.own_account(anna, number) == account


async def test_other_credentials_end_a_bad_state(rig: UstRig) -> None:
    anna = await rig.sign_up(ANNA)
    number = await _bind(rig, anna)
    account = rig.accounts.account(number)
    await rig.accounts.put_account(msgspec.structs.replace(account, state=AccountState.BAD_CREDENTIALS))
    assert (await rig.do("accounts", anna))["accounts"][0]["state"] == "bad_credentials"
    form = {**FORM, "password": "another", "server": "elsewhere"}
    changed = await rig.do("change_credentials", anna, account=number, credentials=form)
    assert changed["state"] == "idle"
    assert rig.accounts.unseal(rig.accounts.account(number)) == form
    assert rig.supervision.calls == [("bound", number)] * 2


async def test_names_are_unique_among_a_users_own(rig: UstRig) -> None:
    anna, bert = await rig.sign_up(ANNA), await rig.sign_up(BERT)
    number = await _bind(rig, anna)
    await _bind(rig, bert)
    with pytest.raises(Conflict):
        await _bind(rig, anna, "SINA")
    other = await _bind(rig, anna, "other")
    with pytest.raises(Conflict):
        await rig.do("rename_account", anna, account=other, name="Sina")
    assert (await rig.do("rename_account", anna, account=number, name="Sina"))["name"] == "Sina"
    for name in ("", "42", "own", "to: x", "a,b", "a\nb"):
        with pytest.raises(BadRequest):
            await _bind(rig, anna, name)


async def test_unbound_means_gone(rig: UstRig) -> None:
    anna = await rig.sign_up(ANNA)
    number = await _bind(rig, anna)
    await rig.do("unbind", anna, account="Sina")
    assert rig.supervision.calls[-1] == ("unbound", number)
    assert rig.gate.owner(number) is None
    assert (await rig.do("accounts", anna))["accounts"] == []
    assert await _bind(rig, anna) > number


async def test_an_account_of_another_is_one_that_is_not_there(rig: UstRig) -> None:
    anna, bert = await rig.sign_up(ANNA), await rig.sign_up(BERT)
    number = await _bind(rig, anna)
    for name, fields in (
        ("unbind", {}),
        ("rename_account", {"name": "x"}),
        ("change_credentials", {"credentials": FORM}),
    ):
        told = []
        for asked in (number, str(number), "sina", "x", number + 1, 1 << 62):
            with pytest.raises(NotFound) as caught:
                await rig.do(name, bert, account=asked, **fields)
            told.append((caught.value.message, caught.value.field))
        assert len(set(told)) == 1
    with pytest.raises(NotFound):
        rig.gate.own_account(bert, "sina")
    assert rig.gate.owner(number).user == anna


async def test_contacts_come_in_pages_of_one_question_to_the_network(rig: UstRig) -> None:
    anna, bert = await rig.sign_up(ANNA), await rig.sign_up(BERT)
    number = await _bind(rig, anna)
    rig.supervision.rosters[number] = [Contact(f"{n}@paper.example", f"N{n}") for n in (3, 1, 2)]
    first = await rig.do("account_contacts", anna, account=number, limit=2)
    assert first["contacts"][0] == {"remote_id": "1@paper.example", "display": "N1"}
    second = await rig.do("account_contacts", anna, account=number, limit=2, after=first["next"])
    assert second == {"contacts": [{"remote_id": "3@paper.example", "display": "N3"}]}
    assert rig.supervision.calls.count(("contacts", number)) == 1
    await rig.do("account_contacts", anna, account=number)
    assert rig.supervision.calls.count(("contacts", number)) == 2
    with pytest.raises(NotFound):
        await rig.do("account_contacts", bert, account=number)


async def test_accounts_of_a_user_are_bounded() -> None:
    rig = rig_in_ram(accounts_per_user=2)
    anna = await rig.sign_up(ANNA)
    await _bind(rig, anna, "one")
    await _bind(rig, anna, "two")
    with pytest.raises(Conflict):
        await _bind(rig, anna, "three")


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"address": "no-at-sign-s3cret", "password": "hunter2-s3cret"}, "credentials"),
        ({"address": "a@b"}, "credentials.password"),
        ({"address": "a@b", "password": ""}, "credentials.password"),
        ({**FORM, "hunter2-s3cret": "x"}, "credentials"),
        ({**FORM, "server": "nowhere"}, "credentials"),
    ],
)
async def test_a_form_filled_in_wrongly_names_its_field_and_no_value(form: dict[str, str], field: str) -> None:
    rig = rig_in_ram()
    anna = await rig.sign_up(ANNA)
    with pytest.raises(GatewayError) as caught:
        await rig.do("bind", anna, network="paper", name="p", credentials=form)
    assert caught.value.field == field
    said = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "s3cret" not in said.replace('"hunter2-s3cret"', "")
    assert rig.accounts.count() == 0


async def test_an_unknown_network_is_no_network() -> None:
    rig = rig_in_ram()
    anna = await rig.sign_up(ANNA)
    with pytest.raises(BadRequest) as caught:
        await rig.do("bind", anna, network="stone", name="s", credentials=FORM)
    assert caught.value.field == "network"


def test_what_is_asked_shows_nothing_by_being_printed() -> None:
    ask = Bind(network="paper", name="sina", credentials=FORM)
    assert "sesame" not in f"{ask!r} {ask}"
    assert FormNetwork().host
