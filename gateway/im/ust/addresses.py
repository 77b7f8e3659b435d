"""What people register with, brought into one normal form: a telephone number as E.164 with its plus, or a mailbox in
lower case with its domain as the DNS has it; and names of mailboxes in the service's own domain (D14).

An error says what is expected and must never repeat what was given. Whether a number or a mailbox exists is found by
sending a code there, never by a look-up here.
"""

from __future__ import annotations

import re
import unicodedata

import idna
import phonenumbers

from gateway.model.errors import BadRequest

#: most characters of an address (RFC 5321 §4.5.3.1.3 without its brackets)
MAX_CHARS = 254
_LOCAL_CHARS = 64
#: as people write them, and as address books keep them
_SEPARATORS = re.compile(r"[\s ().\-/\u2010-\u2015\u200e\u200f\u202a-\u202c]")
_DIALLED = re.compile(r"\+?[0-9]{3,20}")
_E164 = re.compile(r"\+[1-9][0-9]{4,14}")
_REGION = re.compile(r"[A-Z]{2}")
#: Dot-string of RFC 5321 §4.1.2, in lower case; quoted strings are no address of a person
_DOT_STRING = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
#: the part of dot-strings that every mail system takes unquoted, and no shell, path or address tag reads otherwise
_OWN_LOCAL = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*")
#: codes are not sent to numbers that are dear to write to: whoever owns one could ask for codes and earn
_DEAR = frozenset(
    {
        phonenumbers.PhoneNumberType.PREMIUM_RATE,
        phonenumbers.PhoneNumberType.SHARED_COST,
        phonenumbers.PhoneNumberType.UAN,
    }
)

#: RFC 2142, what certificates are given to (CA/Browser Forum BR 3.2.2.4.4), and what speaks for a service
RESERVED = frozenset(
    """
    abuse admin administrator autoconfig autodiscover billing bounce bounces contact daemon ftp help hostmaster
    info is it legal list localhost mail mailer-daemon marketing mis news no-reply nobody noc noreply office
    operator postmaster privacy root sales security service ssladmin ssladministrator sslwebmaster support
    sysadmin system usenet uucp webmaster wpad www
    """.split()  # noqa: SIM905
)


def is_number(address: str) -> bool:
    """Of a normal address."""
    return address.startswith("+")


def parse_address(text: str, field: str = "address", also: str = "") -> str:
    """A number or a mailbox, normal. BadRequest, which says what may stand there `also`."""
    if "@" in text:
        return parse_mailbox(text, field)
    number = _normal_number(text, "")
    if number is None:
        raise BadRequest(f"expected a number with its country code, as in +4930123456, or a mailbox{also}", field=field)
    return number


def parse_number(text: str, region: str = "", field: str = "number") -> str:
    """E.164. `region` (ISO 3166-1, two letters): how a number without a country code is to be read; empty: it must
    have one. BadRequest. It need not be in a number plan: closed networks have numbers of their own."""
    number = _normal_number(text, region)
    if number is None:
        raise BadRequest("this is no telephone number: expected its country code, as in +4930123456", field=field)
    return number


def is_dear(number: str) -> bool:
    """A premium or shared-cost number, as far as number plans say."""
    try:
        return phonenumbers.number_type(phonenumbers.parse(number, None)) in _DEAR
    except phonenumbers.NumberParseException:
        return False


def is_region(text: str) -> bool:
    return _REGION.fullmatch(text) is not None and text in phonenumbers.SUPPORTED_REGIONS


def _normal_number(text: str, region: str) -> str | None:
    if len(text) > MAX_CHARS:
        return None
    compact = _SEPARATORS.sub("", text)
    if not compact.isascii() or _DIALLED.fullmatch(compact) is None:
        return None
    if compact.startswith("00") and not region:
        compact = "+" + compact[2:]
    if not compact.startswith("+") and not region:
        return None
    found = _format(compact, region)
    # a trunk prefix behind the country code goes, one at a time: the normal form has none
    while found is not None:
        again = _format(found, "")
        if again is None or len(again) >= len(found):
            break
        found = again
    return found


def _format(compact: str, region: str) -> str | None:
    try:
        number = phonenumbers.parse(compact, region or None)
    except phonenumbers.NumberParseException:
        # a country code of nobody: a closed network's
        return compact if _E164.fullmatch(compact) else None
    found = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return found if _E164.fullmatch(found) else None


def parse_mailbox(text: str, field: str = "address") -> str:
    """Local part and domain in lower case, the domain as the DNS has it (IDNA 2008). BadRequest."""
    mailbox = _normal_mailbox(text)
    if mailbox is None:
        raise BadRequest("this is no mailbox: expected name@domain, the name in ASCII and without quotes", field=field)
    return mailbox


def _normal_mailbox(text: str) -> str | None:
    if len(text) > MAX_CHARS:
        return None
    local, at, domain = text.strip().rpartition("@")
    local = local.lower()
    if not at or len(local) > _LOCAL_CHARS or not local.isascii() or _DOT_STRING.fullmatch(local) is None:
        return None
    found = parse_domain(domain)
    if found is None or len(local) + 1 + len(found) > MAX_CHARS:
        return None
    return f"{local}@{found}"


def parse_domain(text: str) -> str | None:
    """As the DNS has it; None where it is no name of a domain (an address in brackets is none)."""
    try:
        found = idna.encode(unicodedata.normalize("NFC", text), uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError, IndexError):
        return None
    if len(found) > 253 or _DOMAIN.fullmatch(found) is None or found.rpartition(".")[2].isdigit():
        return None
    return found


def parse_local_part(text: str, field: str = "mailbox") -> str:
    """A name for a mailbox in the service's own domain, in lower case. BadRequest, also for a name that others take for
    the service itself."""
    local = text.strip().lower()
    if not local.isascii() or len(local) > _LOCAL_CHARS or _OWN_LOCAL.fullmatch(local) is None:
        raise BadRequest(
            "expected up to 64 letters of ASCII, digits, - and _, parted by single dots; a letter or digit first",
            field=field,
        )
    if local in RESERVED:
        raise BadRequest("this name is reserved: choose another", field=field)
    return local
