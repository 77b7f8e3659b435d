"""Which register of the network is asked before a short message goes out (C8); must never ask two."""

from __future__ import annotations

from gateway.config.paging import parse_host
from gateway.config.sections import Config
from gateway.diameter.node import Node
from gateway.diameter.s6c import S6cRegister
from gateway.model.subscribers import HomeRegister
from gateway.paging.sms.hlr import OsmoHlr


def build_register(config: Config, node: Node | None) -> HomeRegister | None:
    """The HLR of `paging.hlr`, else the HSS where `diameter.s6c` says so, else none. ConfigError."""
    paging, diameter = config.paging, config.diameter
    if paging.hlr:
        return OsmoHlr(*parse_host(paging.hlr, "paging.hlr"), paging.hlr_timeout_s)
    if node is not None and diameter.s6c:
        return S6cRegister(node, diameter.hss_host, diameter.sc_address)
    return None
