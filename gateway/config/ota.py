"""Rules between the settings of `ota`, and what it needs of others; must never change a value.

What is wrong is named with its setting and the fix, for `check-config` as for the start.
"""

from __future__ import annotations

from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address

from gateway.config.ota_rates import check_rates
from gateway.config.ota_section import Ota
from gateway.config.paging import read_smscs
from gateway.config.problems import collect, described
from gateway.config.sections import Config
from gateway.model.errors import ConfigError
from gateway.model.gsm7 import count_septets
from gateway.model.public_addresses import is_loopback

#: of one short message (3GPP TS 23.040 §9.2.3.16)
NOTICE_SEPTETS = 160
#: a bearer description stands in a PUSH that has to fit one message beside its address
BEARER_BYTES = 40
#: tag of a bearer description, with its comprehension bit and without (ETSI TS 102 223 §9.3)
_BEARER_TAGS = (0x35, 0xB5)
#: pairs of which the first must not be more than the second
_AT_MOST = (
    ("rto_least_ms", "rto_most_ms"),
    ("rto_least_ms", "rto_first_ms"),
    ("rto_first_ms", "rto_most_ms"),
    ("max_half_open", "max_links"),
    ("at_once", "max_links"),
    ("at_once", "max_expected"),
    ("packet_bytes", "max_sdu_bytes"),
    ("packet_bytes", "queued_bytes"),
    ("max_pdu_bytes", "mailbox_bytes"),
    ("retry_s", "retry_max_s"),
    ("validity_s", "ttl_s"),
)


def read_public_address(ota: Ota) -> IPv4Address | IPv6Address:
    """What cards are told to connect to. ConfigError."""
    field, text = ("public_address", ota.public_address) if ota.public_address else ("host", ota.host)
    try:
        found = ip_address(text)
    except ValueError:
        found = None
    if found is None:
        words = f"{text!r} is no address: a PUSH carries 4 or 16 bytes, and no name"
    elif found.is_unspecified or found.is_multicast:
        words = f"{text!r} is no address that a card could connect to"
    else:
        return found
    fix = "" if ota.public_address else "; name the one that cards see in ota.public_address"
    raise ConfigError(words + fix, field=f"ota.{field}")


def parse_bearer(text: str, setting: str) -> bytes:
    """The value of a bearer description in hex (ETSI TS 102 223 §8.52): its type and parameters. ConfigError."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if not 3 <= len(raw) <= BEARER_BYTES or raw[0] not in _BEARER_TAGS or raw[1] != len(raw) - 2:
        raise ConfigError(
            f"{text!r} is no bearer description in hex: 35, a length, a type and its parameters; 350103 is what a"
            " terminal takes by default",
            field=setting,
        )
    return raw[2:]


def _check_apn(ota: Ota) -> None:
    labels = ota.apn.split(".") if ota.apn else []
    if len(ota.apn) > 99 or any(not 0 < len(label) < 64 or not label.isascii() for label in labels):
        raise ConfigError(
            f"{ota.apn!r} is no access point: labels of 1 to 63 ASCII characters with dots between, 99 in all",
            field="ota.apn",
        )


def _check_notice(ota: Ota) -> None:
    septets = count_septets(ota.notice)
    if not septets:
        words = "is empty; say what a user is told" if septets == 0 else "has characters that GSM 7 bit does not"
    elif septets > NOTICE_SEPTETS:
        words = f"takes {septets} characters of GSM 7 bit, and one message has {NOTICE_SEPTETS}"
    else:
        return
    raise ConfigError(words, field="ota.notice")


def conflicts(config: Config) -> list[tuple[str, str]]:
    """(field, what is wrong), as gateway.config.check has it."""
    ota = config.ota
    found: list[tuple[str, str]] = []
    for name, limit in _AT_MOST:
        value, most = getattr(ota, name), getattr(ota, limit)
        if value > most:
            found.append((f"ota.{name}", f"{value:_} is more than ota.{limit} = {most:_}"))
    if 0 < ota.idle_s <= ota.answer_s:
        words = f"is not more than ota.answer_s = {ota.answer_s:_}: links would close while an answer is waited for"
        found.append(("ota.idle_s", words))
    found += described(
        collect(
            (
                partial(parse_bearer, ota.bearer, "ota.bearer"),
                partial(_check_apn, ota),
                partial(_check_notice, ota),
                partial(check_rates, ota, _smsc_names(config)),
            )
        )
    )
    if ota.port >= 0:
        found += _needs(config)
    return found


def _smsc_names(config: Config) -> list[str] | None:
    """Those that a rate may name; None: they can not be read, which `paging` says."""
    if not config.ota.smsc_rates:
        return None
    try:
        return [smsc.name for smsc in read_smscs(config.paging)]
    except ConfigError:
        return None


def _needs(config: Config) -> list[tuple[str, str]]:
    """What has to be there for cards to be reached."""
    found = described(collect((partial(_check_host, config.ota), partial(read_public_address, config.ota))))
    if not config.paging.smscs:
        found.append(
            ("paging.smscs", "is empty, and cards are called by short message: name an SMSC, or ota.port = -1")
        )
    elif config.paging.smsc_bind != "transceiver":
        words = "has to be transceiver where ota.port is set: what cards answer comes in by the same bind"
        found.append(("paging.smsc_bind", words))
    return found


def _check_host(ota: Ota) -> None:
    try:
        ip_address(ota.host)
    except ValueError:
        raise ConfigError(f"{ota.host!r} is no address; 0.0.0.0 listens on every one", field="ota.host") from None


def advice(config: Config) -> list[tuple[str, str]]:
    """(field, what to think about); of a section without conflicts."""
    ota = config.ota
    if ota.port < 0:
        unused = [f"ota.{name}" for name in ("public_address", "public_port") if getattr(ota, name)]
        if not unused:
            return []
        words = f"is -1, so nothing is done for cards and {' and '.join(unused)} is not used; set it to 10500"
        return [("ota.port", words)]
    found: list[tuple[str, str]] = []
    public = str(read_public_address(ota))
    if is_loopback(public):
        field = "ota.public_address" if ota.public_address else "ota.host"
        found.append((field, f"{public}: only cards simulated on this machine can connect to it"))
    elif is_loopback(ota.host):
        found.append(
            ("ota.host", f"{ota.host}: who comes by {public} does not reach it; bind an address of the network")
        )
    source = ota.source or config.paging.sms_source
    if source and not source.lstrip("+").isdigit():
        field = "ota.source" if ota.source else "paging.sms_source"
        words = "is no number, and cards answer to the sender of a message: none could; set ota.source to a number"
        found.append((field, words))
    if 0 < ota.capability_days < 1:
        found.append(("ota.capability_days", "is less than a day: most downloads ask the terminal again"))
    return found
