"""Reads who messages to cards come from, and how many an SMSC gets a second; must never look at anything else.

What is wrong is a ConfigError that names the setting and the fix, for `check-config` as for the start.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection

from gateway.config.ota_section import Ota
from gateway.config.paging import parse_source
from gateway.model.errors import ConfigError

MOST_RATE = 100_000.0
_ENTRY = re.compile(r"(?P<system_id>[^@]+)@(?P<name>[^=]+:\d{1,5})=(?P<rate>[0-9]+(?:\.[0-9]+)?)")
_COUNTRY = re.compile(r"(?:[1-9][0-9]{0,2})?")


def read_rates(ota: Ota, smscs: Collection[str] | None = None) -> dict[str, float]:
    """Messages a second by the SMSC's host:port. `smscs`: those that are known; None: nobody looks. ConfigError."""
    found: dict[str, float] = {}
    for place, entry in enumerate(ota.smsc_rates, 1):
        parts = _ENTRY.fullmatch(entry)
        rate = float(parts["rate"]) if parts else math.inf
        if parts is None or rate > MOST_RATE:
            raise ConfigError(
                f"entry {place} is no rate; write it as system_id@smsc.example.net:2775=10, at most {MOST_RATE:_.0f}"
                " messages a second, 0: no limit",
                field="ota.smsc_rates",
            )
        name = parts["name"].lower().replace("[", "").replace("]", "")
        if name in found:
            raise ConfigError(f"entry {place} names {name} a second time", field="ota.smsc_rates")
        if smscs is not None and name not in smscs:
            raise ConfigError(f"entry {place}: {name} is none of paging.smscs", field="ota.smsc_rates")
        found[name] = rate
    return found


def check_rates(ota: Ota, smscs: Collection[str] | None = None) -> None:
    """Who messages to cards come from, who they are answered by, and how many there may be. ConfigError."""
    parse_source(ota.source, "ota.source")
    if not _COUNTRY.fullmatch(ota.country_code):
        raise ConfigError("is no country code: 1 to 3 digits without a plus, as 49", field="ota.country_code")
    read_rates(ota, smscs)
