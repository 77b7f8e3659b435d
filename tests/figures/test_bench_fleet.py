"""The figures of a fleet: devices told apart by owner, entries as nodes hold them, what a redelivery is."""

import asyncio
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bench.system import far_entries
from bench.system.fail_over import SilentDevice, again
from bench.system.fleet_routes import RECORD_BYTES, split
from gateway.cluster.node_homes import NodeHomes
from gateway.model.cluster import node_of_link

ROOT = Path(__file__).parents[2]

records = st.lists(st.binary(min_size=RECORD_BYTES, max_size=RECORD_BYTES), max_size=8)


def build_file(threads: list[list[bytes]]) -> bytes:
    parts = [len(thread).to_bytes(4, "little") + b"".join(thread) for thread in threads]
    return b"a swarm\n" + len(threads).to_bytes(4, "little") + b"".join(parts)


@given(st.lists(records, min_size=1, max_size=4))
def test_devices_are_told_apart_by_their_tokens_and_none_is_lost(threads: list[list[bytes]]) -> None:
    near, far = split(build_file(threads), lambda token: token[0] < 128)
    kept = [[one for one in thread if one[-16] < 128] for thread in threads]
    others = [[one for one in thread if one[-16] >= 128] for thread in threads]
    assert near == build_file(kept)
    assert far == build_file(others)


async def test_a_push_came_again_when_it_came_after_the_kill() -> None:
    device = SilentDevice(1, 0, asyncio.Event())
    assert again(device, 10.0) == 0.0
    device.came = {"a": [9.0]}
    assert again(device, 10.0) == 0.0
    device.came["a"].append(12.5)
    assert again(device, 10.0) == 12.5


def test_entries_are_as_a_node_and_an_owner_hold_them() -> None:
    homes = far_entries.fill_node(50)
    assert isinstance(homes, NodeHomes)
    local = homes.registry.find(far_entries.token_of(7))
    assert (homes.table.partition(local), homes.table.number(local)) == (7 % far_entries.PARTITIONS, 7)
    assert homes.registry.link(local) == homes.links[local] != 0
    assert homes.device_of(local) == "7".zfill(far_entries.DEVICE_LETTERS)
    edge = far_entries.fill_owner(50)
    assert node_of_link(edge.registry.link(7)) == far_entries.FAR_NODE


def test_an_entry_takes_more_at_its_node_than_a_gateway_alone_but_not_much() -> None:
    def bytes_of(kind: str) -> float:
        words = [sys.executable, "-m", "bench.system.far_entries", kind, "50000"]
        return float(subprocess.run(words, cwd=ROOT, check=True, capture_output=True).stdout)

    alone, node = bytes_of("alone"), bytes_of("node")
    assert 20 < node - alone < 70
