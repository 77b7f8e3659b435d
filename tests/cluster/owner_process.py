"""An owner to be killed: adopts a partition, takes in and settles pushes as fast as it can, and says on its output what
it has promised. Arguments: NATS, fleet, folder of the node, folder of the keys, partition, epoch."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import structlog
from journal_rig import JournalNode, PlainLink
from store_rig import APP, Clock, push, register, settle, with_app

from gateway.config.cluster_section import Cluster
from gateway.store.keys import ServerKeys


def say(what: str, *seqs: int) -> None:
    sys.stdout.write("".join(f"{what} {seq}\n" for seq in seqs))
    sys.stdout.flush()


async def main(url: str, fleet: str, folder: str, keys: str, partition: str, epoch: str) -> None:
    settings = Cluster(url=url, name=fleet, journal_bytes=1 << 26, snapshot_bytes=400_000, message_bytes=65_536)
    link = await PlainLink().connect(url, natively=True)
    node = JournalNode(link, settings, Path(folder), ServerKeys.load(Path(keys), may_create=False), Clock())
    await node.leases.open()
    store = await node.adopt(int(partition), int(epoch))
    if store.directory.app(APP) is None:
        await with_app(store)
    numbers = [register(store, f"device {n}") for n in range(20)]
    await store.committer.flush()
    luck = random.Random(int(epoch))
    kept: list[int] = [seq for number in numbers for seq in store.journal.pending_of(number)]
    say("begun", 0)
    while True:
        some = [
            push(store, luck.choice(numbers), text="x" * luck.choice([10, 1_000, 20_000]))
            for _ in range(luck.randrange(1, 30))
        ]
        over = [kept.pop(luck.randrange(len(kept))) for _ in range(len(kept) // 2)]
        say("settling", *over)
        settle(store, *over)
        for seq, written in some:
            await written
            kept.append(seq)
            say("accepted", seq)
        await store.committer.flush()
        say("settled", *over)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(main(*sys.argv[1:]))
