"""What both doors rely on: every operation of UST has bounded fields, a place of its own, and says what it does."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from im_ust_rig import ANNA, BERT, UstRig, rig_in_ram

from gateway.im.operation import Operation
from gateway.model.errors import GatewayError


def _operations() -> list[Operation]:
    return list(rig_in_ram().operations.values())


def test_names_and_places_are_unique() -> None:
    rig = rig_in_ram()
    operations = list(rig.operations.values())
    assert len({(one.method, one.path) for one in operations}) == len(operations)
    assert [one.name for one in operations if not one.needs_user] == ["register", "verify", "networks"]


@pytest.mark.parametrize("operation", _operations(), ids=lambda one: one.name)
def test_fields_in_the_path_are_fields_of_the_ask_and_all_are_bounded(operation: Operation) -> None:
    fields = {field.name for field in msgspec.structs.fields(operation.ask)}
    assert set(re.findall(r"\{(\w+)\}", operation.path)) <= fields
    schema = msgspec.json.schema(operation.ask)["$defs"][operation.ask.__name__]
    for name, field in schema["properties"].items():
        assert _is_bounded(field), f"{name} is not"


def _is_bounded(field: dict[str, Any]) -> bool:
    match field.get("type"):
        case "string":
            return "maxLength" in field
        case "integer":
            return "maximum" in field
        case "array":
            return "maxItems" in field and _is_bounded(field["items"])
        case "object":
            return "maxProperties" in field and _is_bounded(field["additionalProperties"])
        case "boolean" | "null":
            return True
    return all(map(_is_bounded, field["anyOf"]))


@pytest.mark.parametrize("operation", _operations(), ids=lambda one: one.name)
async def test_no_ask_makes_an_operation_fail_otherwise_than_by_an_error_of_ours(operation: Operation) -> None:
    rig = rig_in_ram()
    anna = await rig.sign_up(ANNA)
    values: dict[str, list[Any]] = {
        "address": ["+1", "\ud800@x", "@", BERT],
        "code": ["000000"],
        "name": ["\ud800", "ok"],
        "numbers": [["\ud800", "+" + "9" * 63]],
        "region": ["de", "DE"],
        "user": ["user_" + "0" * 32, "x"],
        "group": ["group_" + "0" * 32, "x"],
        "members": [["user_" + "0" * 32], ["\ud800"]],
        "to": ["user_" + "0" * 32, "user_", "\ud800", "@here.example"],
        "account": [1, "1", "\ud800"],
        "network": ["\ud800", "paper"],
        "credentials": [{"\ud800": "\ud800"}, {}],
        "accept": [True],
        "mailbox": ["\ud800"],
    }
    fields = [field.name for field in msgspec.structs.fields(operation.ask)]
    for turn in range(4):
        given = {name: values[name][turn % len(values[name])] for name in fields if name in values}
        await _try(rig, operation, anna, given)


async def _try(rig: UstRig, operation: Operation, me: bytes, given: dict[str, Any]) -> None:
    try:
        await rig.do(operation.name, me, **given)
    except GatewayError as refused:
        shown = f"{refused.message} {refused.field}"
        assert not [one for one in given.values() if isinstance(one, str) and len(one) > 5 and one in shown]
