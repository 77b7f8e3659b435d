"""A network of its own for each process of a fleet: namespaces on a bridge, whose cables are pulled and whose
neighbours are made deaf to each other; must leave nothing behind, whatever happens.

Two hosts are cut by a wrong hardware address in the other's neighbour table: what is sent leaves, and nobody takes it,
as on a network that drops. A blackhole route would tell the sender, which a network does not.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from typing import Self

from chaos_disks import run

#: an address of nobody, locally administered
_NOBODY = "02:00:00:00:de:ad"


def _can_make_networks() -> bool:
    """Root may, except in a container that was not allowed to: so try."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"hgtry{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode != 0:
        return False
    bridge = subprocess.run(["ip", "link", "add", name[:15], "type", "bridge"], capture_output=True, check=False)
    if bridge.returncode == 0:
        run("ip", "link", "del", name[:15])
    run("ip", "netns", "del", name)
    return bridge.returncode == 0


CAN_MAKE_NETWORKS = _can_make_networks()


class Network:
    """A ground (gateway.tour.fleet_home) of namespaces, a /24 on a bridge where the tester is the .254."""

    def __init__(self, names: Iterable[str]) -> None:
        self._tag = f"hg{os.getpid() % 100_000}"
        self._hosts: dict[str, int] = {}
        self._cut: set[tuple[str, str]] = set()
        self._prefix = ""
        for number, name in enumerate(names, 1):
            self._hosts[name] = number

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self) -> None:
        taken = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True, check=True).stdout
        self._prefix = next(p for n in range(1, 255) if (p := f"10.213.{n}.") not in taken)
        run("ip", "link", "add", self._tag, "type", "bridge")
        run("ip", "addr", "add", f"{self._prefix}254/24", "dev", self._tag)
        run("ip", "link", "set", self._tag, "up")
        for name, number in self._hosts.items():
            space, port = self._space(name), self._port(name)
            run("ip", "netns", "add", space)
            run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "set", port, "master", self._tag, "up")
            run("ip", "-n", space, "link", "set", "lo", "up")
            run("ip", "-n", space, "addr", "add", f"{self._prefix}{number}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")

    def close(self) -> None:
        for name in self._hosts:
            # a cable goes with its namespace, where that has no process any more; so it is taken by itself
            for command in (("ip", "link", "del", self._port(name)), ("ip", "netns", "del", self._space(name))):
                subprocess.run(command, capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._tag], capture_output=True, check=False)

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"

    def _port(self, name: str) -> str:
        return f"{self._tag}{name}"[:15]

    # --- as a ground

    def host(self, name: str) -> str:
        return f"{self._prefix}{self._hosts[name]}"

    def command(self, name: str) -> Sequence[str]:
        return ("ip", "netns", "exec", self._space(name))

    # --- faults

    def unplug(self, name: str) -> None:
        """Nothing goes in or out; the host itself sees no cable that is pulled, only silence."""
        run("ip", "link", "set", self._port(name), "nomaster")

    def plug(self, name: str) -> None:
        run("ip", "link", "set", self._port(name), "master", self._tag)

    def cut(self, one: str, others: Iterable[str]) -> None:
        """Nothing goes between `one` and each of the others, in both directions."""
        for other in others:
            self.deafen(one, other)
            self.deafen(other, one)

    def deafen(self, sender: str, receiver: str) -> None:
        """What the first sends the second does not arrive; the other way it does."""
        self._cut.add((sender, receiver))
        address = self.host(receiver)
        run(*self._neighbours(sender, "replace"), address, "lladdr", _NOBODY, "dev", "eth0", "nud", "permanent")

    def mend(self) -> None:
        """All that was cut is whole again."""
        for sender, receiver in sorted(self._cut):
            run(*self._neighbours(sender, "del"), self.host(receiver), "dev", "eth0")
        self._cut.clear()
        for name in self._hosts:
            with contextlib.suppress(AssertionError):
                self.plug(name)

    def _neighbours(self, name: str, verb: str) -> tuple[str, ...]:
        return ("ip", "-n", self._space(name), "neigh", verb)


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    return list(itertools.combinations(names, 2))
