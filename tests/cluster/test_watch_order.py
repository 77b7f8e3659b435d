"""The watch over a fleet's records brings them in their order: behind one that was lost nothing is heard until all are
told again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.leases import Entry
from gateway.config.cluster_section import Cluster


def message(number: int, key: str, value: bytes = b"x") -> Any:
    sequence = SimpleNamespace(consumer=number, stream=100 + number)
    metadata = SimpleNamespace(sequence=sequence)
    return SimpleNamespace(subject=f"$KV.f_FLEET.{key}", headers=None, data=value, metadata=metadata)


class Consumers(KvLeases):
    """Whose consumers deliver what the test says."""

    def __init__(self) -> None:
        super().__init__(SimpleNamespace(), Cluster(name="f"))  # type: ignore[arg-type]
        self.made = 0

    async def _consume(self, take: Any) -> Any:
        self.made += 1
        if self.made > 1:  # all again
            for number, key in enumerate(("fleet", "keys", "node.a"), 1):
                await take(message(number, key))
        return SimpleNamespace(unsubscribe=_nothing)


async def _nothing() -> None:
    pass


async def test_what_comes_behind_a_lost_record_is_not_heard_before_that_one() -> None:
    heard: list[str] = []

    def hear(entry: Entry) -> None:
        heard.append(entry.key)

    leases = Consumers()
    end = await leases.watch(hear)
    await leases._take(message(1, "fleet"))
    await leases._take(message(2, "node.a"))
    await leases._take(message(4, "node.a"))  # 3 was the keys
    await leases._take(message(5, "node.a"))
    assert heard == ["fleet", "node.a"]
    await end()
    assert heard == ["fleet", "node.a"]


async def test_a_torn_watch_tells_all_again_and_goes_on() -> None:
    heard: list[str] = []
    leases = Consumers()
    end = await leases.watch(lambda entry: heard.append(entry.key))
    await leases._take(message(1, "node.a"))
    await leases._take(message(3, "node.a"))
    assert leases._mending is not None
    await leases._mending
    assert heard == ["node.a", "fleet", "keys", "node.a"]
    await leases._take(message(4, "node.b"))
    assert heard[-1] == "node.b"
    await end()
