"""A node's members alone, as a process of their own: prints each change of what it owns as a line of JSON."""

from __future__ import annotations

import asyncio
import json
import sys

from gateway.cluster.beats import ThreadHeart
from gateway.cluster.entrance import enter
from gateway.cluster.kv_leases import KvLeases
from gateway.cluster.members import FleetMembers
from gateway.cluster.nats_link import NatsLink
from gateway.config.cluster_section import Cluster
from gateway.metrics import Metrics
from gateway.model.cluster import Member, Owner


def say(what: str, number: int) -> None:
    print(json.dumps([what, number]), flush=True)


class Printer:
    async def adopt(self, partition: int, epoch: int) -> None:
        say("adopt", partition)

    def steps(self, partition: int) -> int:
        return 0

    async def release(self, partition: int) -> None:
        say("release", partition)

    def lost(self, partition: int) -> None:
        say("lost", partition)

    def owner_changed(self, partition: int, owner: Owner) -> None:
        pass

    def member_came(self, member: Member) -> None:
        say("came", member.number)

    def member_gone(self, number: int) -> None:
        say("gone", number)

    def standby(self, partition: int, *, wanted: bool) -> None:
        pass


async def main(settings: Cluster) -> None:
    link = NatsLink(settings, purpose="bus", node=settings.node)
    await link.connect()
    leases = KvLeases(link, settings)
    await leases.open()
    entrance = await enter(settings, leases)
    say("number", entrance.number)
    members = FleetMembers(
        settings,
        entrance,
        leases,
        ThreadHeart(settings, settings.node),
        Printer(),
        Metrics(process=False),
        is_up=lambda: link.is_up,
    )
    await members.start()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await members.close()
    await link.close()


if __name__ == "__main__":
    asyncio.run(main(Cluster(**json.loads(sys.argv[1]))))
