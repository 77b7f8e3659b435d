"""Which hosts ids may name (C6): this gateway's own, those of classes, and other gateways that are in the list; must
never connect to any of them.
"""

from __future__ import annotations

from gateway.config.sections import Identity as IdentityConfig
from gateway.identity.opaque_ids import OpaqueId
from gateway.model.subscriber import Granularity, Scope


class Hosts:
    def __init__(self, config: IdentityConfig) -> None:
        self._host = config.host.lower()
        self._of_class = {name: host.lower() for name, _, host in (each.rpartition("=") for each in config.class_hosts)}
        self._own = frozenset({self._host, *self._of_class.values()})
        self._others = frozenset(each.lower() for each in config.domains) - self._own

    def host_of(self, scope: Scope) -> str:
        """The same for every id of a scope, so that it tells nothing of a user."""
        return self._of_class.get(scope.name, self._host) if scope.granularity == Granularity.CLASS else self._host

    def is_own(self, host: str) -> bool:
        return host in self._own

    def elsewhere(self, opaque: OpaqueId | None) -> str:
        """URL of the gateway whose id it is; empty where it is ours, or names a host that is in no list."""
        return f"https://{opaque.host}" if opaque is not None and opaque.host in self._others else ""
