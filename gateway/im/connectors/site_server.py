"""What a person types of a social site's server, checked; must never put a value of it into an error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from gateway.model.im import Credentials, LoginField, Rejected

TLS = LoginField("tls", "TLS: always, or never (closed networks only)", is_required=False, default="always")
#: people paste it out of a browser
_SERVER = re.compile(r"(?:(https?)://)?([A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?/?")


class SiteServer(NamedTuple):
    """With its port where that is one of its own."""

    name: str
    has_tls: bool

    @property
    def url(self) -> str:
        return f"{'https' if self.has_tls else 'http'}://{self.name}"


def read_values(credentials: Credentials, form: Sequence[LoginField]) -> dict[str, str]:
    """Every field of the form. Rejected, naming the field."""
    values = {field.name: credentials.values.get(field.name, "").strip() or field.default for field in form}
    for name, value in values.items():
        if not value:
            raise Rejected(f"{name}: this field is needed")
    return values


def parse_server(values: dict[str, str], example: str) -> SiteServer:
    """Of the fields `server` and `tls`. Rejected, naming the field."""
    found = _SERVER.fullmatch(values["server"])
    if found is None or not 0 < int(found[3] or 443) < 65_536:
        raise Rejected(f"server: a name such as {example}, with a port behind a colon where it has one of its own")
    if values["tls"] not in ("always", "never"):
        raise Rejected("tls: always or never")
    if found[1] == "http" and values["tls"] == "always":
        raise Rejected("tls: this server is named without it")
    return SiteServer(found[2].lower() + (f":{found[3]}" if found[3] else ""), values["tls"] == "always")
