"""An app as `heliograph apps show` has it for people: a line for each notifier and door, certificates by name and end;
must never show a secret, which the API does not tell either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.cli.output import text_of, when

#: field of the API → what it is called beside notifiers, which have the same names
_DOORS = {
    "webpush": "door webpush",
    "apns_topic": "door apns topic",
    "apns_keys": "door apns keys",
    "apns_certificates": "door apns certificates",
}
_PEM = "-----BEGIN "


def build_fields(app: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Name and value of each line."""
    for name, value in app.items():
        if name == "keys":
            continue  # a table of their own
        if name == "notifiers":
            for notifier, settings in value.items():
                yield f"notifier {notifier}", {key: describe_value(text) for key, text in settings.items()} or "set"
        elif name == "created_at":
            yield "created (UTC)", when(value)
        elif name == "apns_keys":
            yield _DOORS[name], [f"{key['key_id']} of team {key['team_id']}" for key in value]
        elif name == "limits":
            yield name, describe_limits(value)
        else:
            yield _DOORS.get(name, name), value


def describe_limits(limits: Mapping[str, int]) -> str:
    """Those that there are; 0 is none."""
    return text_of({name: each for name, each in limits.items() if each}) or "none"


def describe_value(text: str) -> str:
    """In one line, whatever it is."""
    if _PEM in text:
        return _describe_pem(text)
    first, *more = text.strip().splitlines() or [""]
    return f"{first} …" if more else first


def _describe_pem(text: str) -> str:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        return "PEM"
    first = found[0]
    ends = first.not_valid_after_utc.strftime("%Y-%m-%d")
    count = "certificate" if len(found) == 1 else f"{len(found)} certificates, the first"
    return f"{count} ({_subject(first)}, ends {ends})"


def _subject(certificate: Any) -> str:
    from cryptography.x509.oid import NameOID

    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    text = str(names[0].value) if names else certificate.subject.rfc4514_string()
    return "".join(letter if letter.isprintable() else "?" for letter in text)
