"""Asks the HSS by Sh whom a public identity of IMS belongs to (C14); must never take a document type or an entity in
what it is sent, nor show an identity by an error.

Sources: 3GPP TS 29.328 §6.1.1 (User-Data-Request), table 7.6.1 (references), annex C (Sh-Data); TS 29.329 §6.1.1.
"""

from __future__ import annotations

from xml.parsers import expat

from gateway.diameter import codes
from gateway.diameter.avps import Malformed, build_group, build_octets, build_text, build_u32
from gateway.diameter.codes import Application, Command, Experimental, Result
from gateway.diameter.node import Node, Refused, ResultOf, parse_result
from gateway.diameter.tbcd import build_tbcd
from gateway.model.subscribers import Numbers

#: Data-Reference (TS 29.328 table 7.6.1)
MSISDN, IMSI = 17, 32
MOST_DEPTH = 32
#: TS 23.003 §13.4
MOST_IDENTITY_CHARS = 512
UNKNOWN = ResultOf(Experimental.USER_UNKNOWN, True)
#: an HSS that gives one thing at a time, or no IMSI
NOT_BOTH = (
    ResultOf(Result.AVP_OCCURS_TOO_MANY_TIMES),
    ResultOf(Result.INVALID_AVP_VALUE),
    ResultOf(Experimental.TOO_MUCH_DATA, True),
    ResultOf(Experimental.USER_DATA_NOT_RECOGNIZED, True),
    ResultOf(Experimental.OPERATION_NOT_ALLOWED, True),
    ResultOf(Experimental.USER_DATA_CANNOT_BE_READ, True),
)


def build_request(impu: str, references: tuple[int, ...]) -> bytes:
    """What a User-Data-Request has beside its head. ValueError where `impu` is neither sip: nor tel:."""
    scheme, _, rest = impu.partition(":")
    if scheme not in ("sip", "tel") or not rest or len(impu) > MOST_IDENTITY_CHARS:
        raise ValueError("no public identity")
    who = build_text(codes.PUBLIC_IDENTITY, impu)
    return build_group(codes.USER_IDENTITY, who) + b"".join(
        build_u32(codes.DATA_REFERENCE, reference) for reference in references
    )


def build_request_by_msisdn(msisdn: str, references: tuple[int, ...]) -> bytes:
    """The same for who is known by number. ValueError where it is none."""
    who = build_octets(codes.MSISDN, build_tbcd(msisdn.lstrip("+")))
    return build_group(codes.USER_IDENTITY, who) + b"".join(
        build_u32(codes.DATA_REFERENCE, reference) for reference in references
    )


class _Reader:
    """Text of the first element of each name that is asked for, wherever it stands: extensions nest (annex D)."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.found: dict[str, str] = {}
        self.root = ""
        self._names = names
        self._open: list[str] = []

    def begin(self, name: str, _attributes: object) -> None:
        local = name.rpartition(":")[2]
        self.root = self.root or local
        if len(self._open) >= MOST_DEPTH:
            raise Malformed("User-Data is nested too deep")
        self._open.append(local)

    def end(self, _name: str) -> None:
        name = self._open.pop()
        if name in self._names:
            self.found.setdefault(name, "")
            self._names = tuple(each for each in self._names if each != name)

    def text(self, data: str) -> None:
        if self._open and self._open[-1] in self._names:
            self.found[self._open[-1]] = self.found.get(self._open[-1], "") + data


def _refuse(*_: object) -> int:
    raise Malformed("User-Data declares what it may not")


def parse_user_data(data: bytes) -> Numbers:
    """MSISDN and IMSI of an Sh-Data document, each empty where it is not there. Malformed."""
    reader = _Reader(("MSISDN", "IMSI"))
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.begin
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    # without a document type there are no entities but the five of XML itself
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.ExternalEntityRefHandler = _refuse
    try:
        parser.Parse(data, True)
        is_whole = True
    except (expat.ExpatError, UnicodeError, ValueError, LookupError):
        is_whole = False
    if not is_whole or reader.root != "Sh-Data":
        # out of the handler, so that no context keeps what was sent
        raise Malformed("User-Data is no Sh-Data")
    msisdn = reader.found.get("MSISDN", "").strip().lstrip("+")
    imsi = reader.found.get("IMSI", "").strip()
    for digits, least in ((msisdn, 1), (imsi, 6)):
        if digits and not (digits.isascii() and digits.isdecimal() and least <= len(digits) <= 15):
            raise Malformed("User-Data has what is no number")
    return Numbers(msisdn, imsi)


class ShHome:
    """model.subscribers.ImsHome."""

    def __init__(self, node: Node, hss_host: str = "") -> None:
        self._node = node
        self._hss_host = hss_host

    async def find(self, impu: str) -> Numbers | None:
        result, found = await self._ask(build_request(impu, (MSISDN, IMSI)))
        if result in NOT_BOTH:
            result, found = await self._ask(build_request(impu, (MSISDN,)))
        if result == UNKNOWN:
            return None
        if not result.is_success:
            raise Refused
        return found

    async def _ask(self, request: bytes) -> tuple[ResultOf, Numbers]:
        answer = await self._node.request(Application.SH, Command.USER_DATA, request, self._hss_host)
        result = parse_result(answer)
        data = answer.first(codes.USER_DATA) if result.is_success else None
        # success without data: there is none of what was asked for (TS 29.328 §6.1.1)
        return result, parse_user_data(data) if data else Numbers()
