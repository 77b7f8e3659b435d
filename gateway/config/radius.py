"""Reads what `radius` and `ip` name: clients, their secrets, pools of subscribers; must never keep a secret where it
could be printed, nor repeat one.

What is wrong is a ConfigError that names the setting and the fix, for `check-config` as for the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import parse_qs

from gateway.config.operator_sections import Ip, Radius
from gateway.config.paging import parse_host
from gateway.config.problems import collect, described, raise_first
from gateway.config.secret_files import read_line
from gateway.config.sections import Config
from gateway.model.errors import ConfigError
from gateway.model.public_addresses import is_loopback

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

MOST_CLIENTS, MOST_NETWORKS = 256, 256
#: RFC 2865 §3: at least as long as a good password; what is shorter is soon tried
LEAST_SECRET_BYTES, MOST_SECRET_BYTES = 8, 1_024
#: RFC 7252 §4.8: ACK_RANDOM_FACTOR
RANDOM_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class Client:
    """Who may report, and the secret shared with it."""

    network: Network
    secret_file: str
    secret: bytes = field(repr=False)


def read_clients(radius: Radius) -> list[Client]:
    """Narrowest network first. Reads disk: not for the loop. ConfigError."""
    clients, errors = _read_all(radius)
    raise_first(errors)
    return sorted(clients, key=lambda client: -client.network.prefixlen)


def _read_all(radius: Radius) -> tuple[list[Client], list[ConfigError]]:
    """What can be used, and all that can not."""
    if len(radius.clients) > MOST_CLIENTS:
        return [], [ConfigError(f"has {len(radius.clients)} entries; at most {MOST_CLIENTS}", field="radius.clients")]
    found: list[Client] = []

    def check_entry(place: int, entry: str) -> None:
        found.append(_read_client(place, entry, radius.secret_file))

    errors = collect(partial(check_entry, place, entry) for place, entry in enumerate(radius.clients, 1))
    if len({client.network for client in found}) < len(found):
        errors.append(ConfigError("names one network twice, and only one secret can count", field="radius.clients"))
    return found, errors


def _read_client(place: int, entry: str, secret_file: str) -> Client:
    text, mark, query = entry.partition("?")
    try:
        network = ip_network(text.strip())
        asked = parse_qs(query, strict_parsing=True) if mark else {}
        usable = not mark or set(asked) == {"secret_file"}
    except ValueError:
        usable = False
    if not usable:
        # named by its place and not repeated: who errs here may have written a secret
        raise ConfigError(
            f"entry {place} is no client; write it as 10.0.0.0/24 or 10.0.0.0/24?secret_file=FILE",
            field="radius.clients",
        )
    file = asked["secret_file"][0] if asked else secret_file
    return Client(network, file, _read_secret(file, "radius.clients" if asked else "radius.secret_file"))


def _read_secret(file: str, setting: str) -> bytes:
    return read_line(
        file,
        setting,
        least=LEAST_SECRET_BYTES,
        most=MOST_SECRET_BYTES,
        what=f"shared secret: {LEAST_SECRET_BYTES} to {MOST_SECRET_BYTES} bytes on one line",
        otherwise="a client names no secret_file of its own: name a file",
    )


def read_networks(ip: Ip) -> list[Network]:
    """The pools that may be sent to. ConfigError for one that no subscriber can be in."""
    if len(ip.networks) > MOST_NETWORKS:
        raise ConfigError(f"has {len(ip.networks)} networks; at most {MOST_NETWORKS}", field="ip.networks")
    found: list[Network] = []
    for text in ip.networks:
        try:
            network = ip_network(text)
        except ValueError as exc:
            raise ConfigError(f"{exc}; write a network, as in 10.45.0.0/16", field="ip.networks") from None
        if network.prefixlen == 0 or network.is_multicast or network.is_unspecified or network.is_link_local:
            raise ConfigError(f"{text!r} is no pool of subscribers; name the operator's own", field="ip.networks")
        if network.is_loopback and not ip.loopback:
            raise ConfigError(f"{text!r} is this machine; ip.loopback = true allows it", field="ip.networks")
        found.append(network)
    return found


def is_allowed(address: Address, networks: Sequence[Network], *, loopback: bool) -> bool:
    """May a terminal at this address be sent to? A wide network does not open what is inside it and no terminal's."""
    if address.is_multicast or address.is_unspecified or address.is_link_local:
        return False
    if address.is_loopback:
        if not loopback:
            return False
    elif address.is_reserved:  # ::1 is that too
        return False
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address.scope_id):
        return False  # the same host in other clothes
    if isinstance(address, IPv4Address) and int(address) in (0xFFFFFFFF, 0):
        return False
    for network in networks:
        if address.version == network.version and address in network:
            # a pool's own two ends are the network itself and everybody in it
            return network.num_addresses <= 2 or address not in (network.network_address, network.broadcast_address)
    return False


def wait_s(ip: Ip) -> float:
    """The longest that a terminal's acknowledgement is waited for (RFC 7252 §4.8.2, MAX_TRANSMIT_WAIT)."""
    return ip.ack_s * float(2 ** (ip.retransmits + 1) - 1) * RANDOM_FACTOR


def is_ggsn_name(text: str) -> bool:
    """One word of a command line."""
    return 0 < len(text) <= 64 and text.isascii() and all(each.isalnum() or each in "._-" for each in text)


def conflicts(config: Config) -> list[tuple[str, str]]:
    """(field, what is wrong), as gateway.config.check has it."""
    radius, ip = config.radius, config.ip
    found = described(_read_all(radius)[1]) if radius.port >= 0 else []
    found += described(
        collect(
            (
                lambda: read_networks(ip),
                lambda: parse_host(ip.ggsn, "ip.ggsn", example="ggsn.example.net:4260") if ip.ggsn else None,
            )
        )
    )
    if radius.port >= 0:
        if not radius.clients:
            found.append(("radius.clients", "is empty: name the GGSNs, as in 10.0.0.0/24"))
        try:
            ip_address(radius.host)
        except ValueError:
            found.append(("radius.host", f"{radius.host!r} is no address; 0.0.0.0 listens on every one"))
    if len(ip.path.encode()) > 255 or "/" in ip.path:
        found.append(("ip.path", "is one segment of at most 255 bytes, without a slash (RFC 7252 §5.10)"))
    if not is_ggsn_name(ip.ggsn_name):
        found.append(("ip.ggsn_name", "is no name of a GGSN: letters, digits, dots and lines"))
    asked_s = ip.ggsn_timeout_s if ip.ggsn else 0.0
    most_s = config.delivery.notifier_timeout_s
    if ip.networks and wait_s(ip) + asked_s >= most_s:
        found.append(
            (
                "ip.ack_s",
                f"with ip.retransmits and the GGSN a terminal may take {wait_s(ip) + asked_s:g} s, and"
                f" delivery.notifier_timeout_s is {most_s:g}; make one of them smaller",
            )
        )
    return found


def advice(config: Config) -> list[tuple[str, str]]:
    """(field, what to think about); of a section without conflicts."""
    from gateway.config.certificates import is_open_to_others

    found: list[tuple[str, str]] = []
    radius = config.radius
    if radius.port >= 0:
        for file in dict.fromkeys(client.secret_file for client in read_clients(radius)):
            if is_open_to_others(file):
                found.append(("radius.clients", f"{file!r} may be read by anybody on this machine: chmod 600"))
        if not is_loopback(radius.host):
            found.append(
                ("radius.host", "accounting is plain UDP with numbers in it: keep it inside the operator's network")
            )
        if not config.ip.networks:
            found.append(("ip.networks", "is empty: sessions are known, and no terminal is sent to"))
    else:
        unused = [name for name in ("clients", "secret_file") if getattr(radius, name)]
        if unused:
            words = f"is -1, so {' and '.join(f'radius.{name}' for name in unused)} are not used and nobody is heard"
            found.append(("radius.port", f"{words}; set it to 1813"))
        if config.ip.ggsn and not config.ip.networks:
            words = (
                "is empty: ip.ggsn is not asked and there is no pager ip; name the operator's own, as in 10.45.0.0/16"
            )
            found.append(("ip.networks", words))
    if config.ip.loopback:
        found.append(("ip.loopback", "true: a session can make the gateway send datagrams to this machine"))
    return found
