"""What a Web Push request says in its header fields, RFC 8030 §5 and RFC 8188 §2; sans-IO, raises BadRequest or
UnsupportedMedia and never quotes a value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from gateway.delivery.request import URGENCIES, UrgencyName
from gateway.model.errors import BadRequest, UnsupportedMedia

#: RFC 8030 §5.4
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")
_TTL = re.compile(r"[0-9]{1,32}")
#: RFC 8291 and the draft before it, whose parameters are in header fields
ENCODINGS = ("aes128gcm", "aesgcm")
#: of Encryption and Crypto-Key, which a device gets as they are
MAX_FIELD_CHARS = 512
#: RFC 8030 §7.2: a push service takes at least this, and nobody else takes more
MAX_BODY_BYTES = 4_096
_SINGLE = {
    name.lower(): name
    for name in ("TTL", "Urgency", "Topic", "Content-Encoding", "Authorization", "Push-Receipt", "Last-Event-ID")
}
_LISTS = frozenset({"prefer", "crypto-key", "encryption"})
_WAIT = re.compile(r"wait=([0-9]{1,6})")


class Options(NamedTuple):
    """Of one push."""

    ttl_s: int
    urgency: UrgencyName
    topic: str
    encoding: str  # empty: there was no Content-Encoding
    encryption: str
    crypto_key: str
    #: RFC 8030 §5.1
    wants_receipt: bool


class Preference(NamedTuple):
    respond_async: bool
    wait_s: int | None


def collect(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header fields by name, those that are lists joined; BadRequest where one that is none is there twice: whoever is
    in between may have looked at the other one (RFC 8030 §5.3, RFC 9110 §5.3)."""
    found: dict[str, str] = {}
    for raw, value in fields:
        name, text = raw.decode("latin-1"), value.decode("latin-1")
        if name not in found:
            found[name] = text
        elif name in _LISTS:
            found[name] += f", {text}"
        elif name in _SINGLE:
            raise BadRequest(f"{_SINGLE[name]} is there twice.", field=_SINGLE[name])
    return found


def parse_options(headers: Mapping[str, str], max_ttl_s: int) -> Options:
    encoding, encryption, crypto_key = _parse_encoding(headers)
    return Options(
        ttl_s=parse_ttl(headers.get("ttl"), max_ttl_s),
        urgency=parse_urgency(headers.get("urgency")),
        topic=parse_topic(headers.get("topic")),
        encoding=encoding,
        encryption=encryption,
        crypto_key=crypto_key,
        # Who names a subscription to report to wants a receipt, whether it says so in Prefer or not.
        wants_receipt=parse_prefer(headers.get("prefer")).respond_async or "push-receipt" in headers,
    )


def parse_ttl(text: str | None, max_ttl_s: int) -> int:
    """Seconds, at most `max_ttl_s`: the answer says what was made of it (RFC 8030 §5.2)."""
    if text is None:
        raise BadRequest("A push needs a TTL header field (RFC 8030 §5.2).", field="TTL")
    if not _TTL.fullmatch(text.strip()):
        raise BadRequest("TTL is a whole number of seconds, 0 or more.", field="TTL")
    return min(int(text), max_ttl_s)


def parse_urgency(text: str | None) -> UrgencyName:
    name = "normal" if text is None else text.strip().lower()
    if name not in URGENCIES:
        raise BadRequest(f"Urgency is one of {', '.join(URGENCIES)} (RFC 8030 §5.3).", field="Urgency")
    return cast(UrgencyName, name)


def parse_topic(text: str | None) -> str:
    if text is None:
        return ""
    if not _TOPIC.fullmatch(text):
        raise BadRequest("Topic is 1 to 32 characters of base64url (RFC 8030 §5.4).", field="Topic")
    return text


def parse_prefer(text: str | None) -> Preference:
    """RFC 7240; what is not known there is to be ignored."""
    wanted = [part.partition(";")[0].strip().lower() for part in (text or "").split(",")]
    waits = [int(found[1]) for part in wanted if (found := _WAIT.fullmatch(part))]
    return Preference("respond-async" in wanted, waits[0] if waits else None)


def _parse_encoding(headers: Mapping[str, str]) -> tuple[str, str, str]:
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding and encoding not in ENCODINGS:
        raise UnsupportedMedia(f"Content-Encoding is {' or '.join(ENCODINGS)}.", field="Content-Encoding")
    if encoding != "aesgcm":
        return encoding, "", ""
    encryption, crypto_key = headers.get("encryption", ""), headers.get("crypto-key", "")
    for name, value in (("Encryption", encryption), ("Crypto-Key", crypto_key)):
        if not value or len(value) > MAX_FIELD_CHARS:
            raise BadRequest(f"aesgcm needs {name}, at most {MAX_FIELD_CHARS} characters.", field=name)
    return encoding, encryption, crypto_key


def check_body(body: bytes, encoding: str) -> None:
    """RFC 8291: what is pushed is encrypted, so a body without an encoding is a mistake of the sender."""
    if body and not encoding:
        raise UnsupportedMedia(
            f"A body is encrypted, and Content-Encoding says how: {' or '.join(ENCODINGS)}.", field="Content-Encoding"
        )


def build_data(body: bytes, options: Options) -> dict[str, Any]:
    """The message body for the device: `{"webpush": {"body": bin, "content_encoding": …}}`, with `encryption` and
    `crypto_key` for aesgcm."""
    message: dict[str, Any] = {"body": body}
    if options.encoding:
        message["content_encoding"] = options.encoding
    if options.encryption:
        message["encryption"] = options.encryption
        message["crypto_key"] = options.crypto_key
    return {"webpush": message}
