"""What comes in about cards, parsed and checked; an error says which field and what is expected, and must never repeat
a number or a key."""

from __future__ import annotations

import re
from typing import TypeVar

from gateway.api.call import Call
from gateway.api.cards.wire import CardIn, KeySetIn
from gateway.api.media import decode
from gateway.config.ota import parse_bearer
from gateway.identity.network_ids import parse_network_id
from gateway.model.cards import CardRecord, KeySet
from gateway.model.errors import BadRequest, ConfigError
from gateway.model.subscriber import NetworkIdKind
from gateway.ota.channel import build_access_name
from gateway.ota.packet_security import KEY_BYTES, Algorithm, is_single_des

_T = TypeVar("_T")
_ALGORITHMS = {
    "aes": Algorithm.AES,
    "3des2": Algorithm.DES3_TWO_KEYS,
    "3des3": Algorithm.DES3_THREE_KEYS,
}
#: ITU-T E.118 has at most 19 digits with its check digit; issuers use all twenty places of EF ICCID, or leave it out
_ICCID = re.compile(r"[0-9]{18,20}")
_SEPARATORS = re.compile(r"[ .\-/]")
#: names of fields, which can be shown; what is unknown could be anything
_PLACE = re.compile(r"(key_sets\[\d+\]|tags\[\d+\])")


async def parse_hidden(call: Call, as_type: type[_T], limit: int | None = None) -> _T:
    """A body in which anything could be a number or a key. BadRequest."""
    if limit is not None:
        call.max_body_bytes = limit
    try:
        return await call.body(as_type)
    except BadRequest as exc:
        error = hide(exc)
    # out of the handler, so that no context keeps what was given
    raise error


def decode_hidden(body: bytes, as_type: type[_T], kind: str) -> _T:
    """The same for a part of a body."""
    try:
        return decode(body, as_type, kind=kind)
    except BadRequest as exc:
        error = hide(exc)
    raise error


def hide(error: BadRequest) -> BadRequest:
    """Errors elsewhere quote unknown words and names of unknown fields; here both may be somebody's number."""
    place, message = error.field, error.message
    if "Invalid enum value" in message:
        message = f"not one of the words that can stand here, see /openapi.json (at {place})"
    elif "unknown field" in message:
        known = _PLACE.match(place)
        place = known[0] if known is not None else ""
        message = "a field is not known here, see /openapi.json" + (f" (at {place})" if place else "")
    return BadRequest(message, field=place)


def parse_iccid(text: str, field: str = "iccid") -> str:
    """Its digits. BadRequest."""
    digits = _SEPARATORS.sub("", text)
    if not digits.isascii() or _ICCID.fullmatch(digits) is None:
        raise BadRequest("this is no ICCID: expected 18 to 20 digits", field=field)
    return digits


def parse_imsi(text: str, field: str = "imsi") -> str:
    return parse_network_id(NetworkIdKind.IMSI, text, field).value


def parse_msisdn(text: str, field: str = "msisdn") -> str:
    """With its plus. BadRequest."""
    return parse_network_id(NetworkIdKind.MSISDN, text, field).value


def build_record(body: CardIn) -> CardRecord:
    """BadRequest."""
    iccid = parse_iccid(body.iccid)
    imsi = parse_imsi(body.imsi) if body.imsi else ""
    msisdn = parse_msisdn(body.msisdn) if body.msisdn else ""
    if not imsi and not msisdn:
        raise BadRequest("a card is called by its msisdn or its imsi: give one of them", field="msisdn")
    key_sets = tuple(_key_set(each, f"key_sets[{place}]") for place, each in enumerate(body.key_sets))
    numbers = [each.number for each in key_sets]
    if len(set(numbers)) < len(numbers):
        raise BadRequest("two key sets have the same number", field="key_sets")
    push_keys = body.push_keys or numbers[0]
    data_keys = body.data_keys or numbers[min(1, len(numbers) - 1)]
    for name, number in (("push_keys", push_keys), ("data_keys", data_keys)):
        if number not in numbers:
            raise BadRequest("is the number of no key set in key_sets", field=name)
    return CardRecord(
        iccid=iccid,
        imsi=imsi,
        msisdn=msisdn,
        key_sets=key_sets,
        push_keys=push_keys,
        data_keys=data_keys,
        push_tar=bytes.fromhex(body.push_tar or body.tar),
        tar=bytes.fromhex(body.tar),
        bearer=_bearer(body.bearer),
        apn=_apn(body.apn),
        tags=tuple(dict.fromkeys(body.tags)),
    )


def _key_set(body: KeySetIn, field: str) -> KeySet:
    algorithm = _ALGORITHMS[body.algorithm]
    sizes = KEY_BYTES[algorithm]
    kic, kid = bytes.fromhex(body.kic), bytes.fromhex(body.kid)
    for name, key in (("kic", kic), ("kid", kid)):
        if len(key) not in sizes:
            words = " or ".join(str(size) for size in sizes)
            raise BadRequest(f"a key of {body.algorithm} has {words} bytes, in hex", field=f"{field}.{name}")
        if algorithm is not Algorithm.AES and is_single_des(key):
            words = "two of its parts are the same, so it protects as little as single DES; give the card another one"
            raise BadRequest(words, field=f"{field}.{name}")
    return KeySet(body.number, algorithm, kic, kid, body.counter)


def _bearer(text: str) -> bytes:
    """As it is kept: its type and parameters."""
    if not text:
        return b""
    try:
        return parse_bearer(text, "bearer")
    except ConfigError:
        pass  # its message quotes what was given, which may be a key in the wrong place
    raise BadRequest(
        "this is no bearer description in hex: expected 35, a length, a type and its parameters, as 350103",
        field="bearer",
    )


def _apn(text: str) -> str:
    try:
        build_access_name(text)
    except ValueError as error:
        raise BadRequest(str(error), field="apn") from None
    return text
