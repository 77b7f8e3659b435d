"""What an app says to the server it was invited to (C13): the service access request and its proof; must never hold the
key it is proved with.

The app shows that it holds the page key of its registration, and which invitation it follows. Its server holds neither:
it asks the gateway, once (POST /v1/service-access).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from gateway.model.public_addresses import is_loopback
from gateway.model.service_page import KEY_BYTES, MOST_AID, MOST_PARAMS, MOST_SERVERS, TICKET_BYTES

PROOF_BYTES = 32
#: bytes of a whole request
MOST_REQUEST = 2_048
#: of a server's URL
MOST_SERVER_CHARS = 256

_Base64 = r"^[A-Za-z0-9_-]*$"


class AccessRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """As it goes to the app's server, and from there to the gateway."""

    id: Annotated[
        str,
        Meta(min_length=22, max_length=22, pattern=_Base64, description="token of the registration that was invited"),
    ]
    aid: Annotated[str, Meta(max_length=MOST_AID, description="which application; empty: the id alone was named")] = ""
    ticket: Annotated[
        str, Meta(min_length=22, max_length=22, pattern=_Base64, description="of the invitation, as it came")
    ]
    server: Annotated[
        int, Meta(ge=0, le=MOST_SERVERS - 1, description="place of the called server in the app's list of servers")
    ] = 0
    proof: Annotated[
        str, Meta(min_length=43, max_length=43, pattern=_Base64, description="that the app holds the page key")
    ]
    params: Annotated[
        str,
        Meta(
            max_length=(MOST_PARAMS * 4 + 2) // 3,
            pattern=_Base64,
            description="parameters of the invitation, as they came, base64url; proved like the rest",
        ),
    ] = ""

    def __repr__(self) -> str:
        return "AccessRequest(…)"


class AccessAnswer(msgspec.Struct, omit_defaults=True):
    """The gateway's. Not valid: nothing else is said."""

    valid: bool
    token: Annotated[str, Meta(description="of the registration that was invited")] = ""
    account: str = ""
    alias: str = ""
    version: str = ""
    aid: str = ""
    server: int = 0
    push: Annotated[str, Meta(description="id of the push that invited it")] = ""
    expires_at: Annotated[int, Meta(description="end of the invitation, Unix seconds")] = 0

    def __repr__(self) -> str:
        return f"AccessAnswer(valid={self.valid})"


class BadAccess(ValueError):
    """The bytes are no service access request."""


_decoder = msgspec.json.Decoder(AccessRequest)


def build_access(key: bytes, id: str, aid: str, ticket: bytes, server: int, params: bytes = b"") -> AccessRequest:
    proof = build_proof(key, aid, ticket, server, params)
    return AccessRequest(
        id=id, aid=aid, ticket=encode(ticket), server=server, proof=encode(proof), params=encode(params)
    )


def parse_access(body: bytes) -> AccessRequest:
    """BadAccess; its text repeats nothing of the body."""
    if len(body) > MOST_REQUEST:
        raise BadAccess("too long")
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        raise BadAccess("no service access request") from None


def build_proof(key: bytes, aid: str, ticket: bytes, server: int, params: bytes) -> bytes:
    """Bound to the one server that was named, so that it can not be used at another."""
    if len(key) != KEY_BYTES or len(ticket) != TICKET_BYTES:
        raise ValueError("key or ticket has another length")
    name = aid.encode()
    said = b"access\0" + len(name).to_bytes(2, "big") + name + ticket + bytes((server,)) + params
    return hmac.digest(key, said, "sha256")


def is_proved(request: AccessRequest, key: bytes) -> bool:
    """Was it made by who holds this key? BadAccess where a part is no base64url."""
    ticket, proof, params = decode(request.ticket), decode(request.proof), decode(request.params)
    if len(ticket) != TICKET_BYTES or len(params) > MOST_PARAMS:
        raise BadAccess("a part has another length")
    return hmac.compare_digest(proof, build_proof(key, request.aid, ticket, request.server, params))


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """BadAccess; of the spellings there are for the same bytes only the canonical one is taken."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise BadAccess("no base64url") from None
    if encode(data) != text:
        raise BadAccess("no base64url")
    return data


def is_server(url: str) -> bool:
    """May an app be sent there? https with a host and nothing that hides it; http on this machine alone, to try it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not url.isascii() or not url.isprintable() or len(url) > MOST_SERVER_CHARS or parts.fragment:
        return False
    if not host or parts.username is not None or port == 0:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
