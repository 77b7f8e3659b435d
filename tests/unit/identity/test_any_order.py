"""Whatever comes in whatever order: no network id has two owners, and no opaque id ever leads to another subscriber
than the one it was drawn for, or to one it has nothing to stand for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from identity_rig import ALL, Scene, canonical

from gateway.identity.allocator import Trigger
from gateway.model.errors import GatewayError, StoreUnavailable
from gateway.model.subscriber import STANDS_FOR, Granularity, OpaqueKind, Scope

SCOPES = [Scope(), Scope(Granularity.APP, "chat"), Scope(Granularity.CLASS, "apn:internet")]
NETWORK = st.lists(st.sampled_from(ALL), min_size=1, max_size=3)
STEPS = st.one_of(
    st.tuples(
        st.just("trigger"),
        NETWORK,
        st.sampled_from(Trigger),
        st.sampled_from(SCOPES),
        st.fixed_dictionaries(
            {
                "move": st.booleans(),
                "further": st.booleans(),
                "together": st.booleans(),
                "replace": st.sampled_from([None, True, False]),
                "validity_s": st.sampled_from([None, 0, 7_200]),
            }
        ),
    ),
    st.tuples(st.just("out"), st.sampled_from(ALL), st.sampled_from(["*", "app:chat"]), st.booleans()),
    st.tuples(st.just("revoke"), st.sampled_from(ALL), st.booleans()),
    st.tuples(st.just("later"), st.integers(1, 90_000)),
    st.tuples(st.just("trouble"), st.booleans()),
)


async def take(scene: Scene, step: tuple[Any, ...]) -> None:
    match step:
        case ("trigger", network, trigger, scope, more):
            await scene.trigger(*network, trigger=trigger, scope=scope, **more)
        case ("out", network_id, what, out):
            await scene.allocator.opt_out(network_id, what, out=out)
        case ("revoke", network_id, forget):
            await scene.allocator.revoke_all(network_id, forget=forget)
        case ("later", seconds):
            scene.now_ms += seconds * 1_000
        case ("trouble", there):
            scene.records.error = StoreUnavailable() if there else None


def check(scene: Scene, first: dict[str, bytes]) -> None:
    records = scene.records.records
    owned = [(each, handle) for handle, record in records.items() for each in record.network_ids()]
    assert len(owned) == len({each for each, _ in owned})
    assert dict(owned) == scene.records.owners
    for handle, record in records.items():
        assert len(record.ids) <= scene.config.ids_per_subscriber
        for issued in record.ids:
            assert first.setdefault(issued.local, handle) == handle
            found = scene.identity.local.find(canonical(issued), "chat")
            if found is None:
                is_out = bool({"*", "app:chat"} & set(record.out))
                assert is_out or not issued.is_live(scene.now_ms)
                continue
            assert found.handle == handle
            kinds = [kind for kind in OpaqueKind if kind & issued.kinds]
            assert any(found.all(network) for kind in kinds for network in STANDS_FOR[kind])
    there = {issued.local for record in records.values() for issued in record.ids}
    for local in first.keys() - there:
        assert not scene.resolves(f"{local}@{scene.config.host}")


@settings(max_examples=150)
@given(st.lists(STEPS, max_size=25))
def test_any_order(steps: list[tuple[Any, ...]]) -> None:
    async def run() -> None:
        scene = Scene(ids_per_subscriber=6)
        first: dict[str, bytes] = {}
        for step in steps:
            with contextlib.suppress(GatewayError):
                await take(scene, step)
            check(scene, first)

    asyncio.run(run())
