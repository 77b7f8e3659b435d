"""A swarm of devices in threads of its own, and what can be done with it; each method returns what it measured."""

from __future__ import annotations

import builtins
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gateway._load.fleet import Fleet, Summary
from gateway._load.publisher import Publisher, pack_targets
from gateway.model.errors import ERRORS, ConfigError
from gateway.swarm.options import Options

#: between two looks at the threads, for each of them
PAUSE_S = 0.001
#: nothing moves for so long: what is waited for does not come
STUCK_S = 30.0
_RECORD_BYTES = 68
_MAGIC = b"heliograph swarm 1\n"

Figures = dict[str, Any]
Progress = Callable[[Figures], None]


class SwarmError(Exception):
    """What was asked can not be done; the text says why."""


def name_of(reason: int) -> str:
    """An end in words: the number of an ERROR or GOAWAY."""
    if reason == 0:
        return "cut"
    return ERRORS[reason].name if reason in ERRORS else f"error_{reason}"


def _publisher_error(number: int) -> str:
    if number >= 1000:
        return os.strerror(number - 1000) if number > 1000 else "the connection was closed"
    return name_of(number)


class Swarm:
    """`with Swarm(options) as swarm:`; from one thread."""

    def __init__(self, options: Options, progress: Progress | None = None) -> None:
        self._options = options
        self._progress = progress
        self._host, _ = options.gateways()[0]
        first, a_source = options.sources()
        share, late_ms = options.acks()
        threads = options.thread_count
        self._fleets = [
            Fleet(
                index,
                threads,
                options.gateways(),
                app=options.app.encode(),
                versions=options.versions,
                heartbeat_ms=int(options.heartbeat_s * 1000),
                first_source=first,
                devices_a_source=a_source,
                mqtt=options.is_mqtt,
                ack_share=share,
                ack_late_ms=late_ms,
            )
            for index in range(threads)
        ]
        self._pause_s = PAUSE_S * (1 + threads)
        self._threads: list[threading.Thread] = []
        self._failed: list[BaseException] = []

    def __enter__(self) -> Swarm:
        for fleet in self._fleets:
            thread = threading.Thread(target=self._run, args=(fleet,), name=f"fleet-{fleet.index}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        for fleet in self._fleets:
            fleet.stop()
        for thread in self._threads:
            thread.join()

    def _run(self, fleet: Fleet) -> None:
        try:
            fleet.run()
        except BaseException as error:
            self._failed.append(error)

    # --- figures

    def counts(self) -> Figures:
        if self._failed:
            raise SwarmError(f"a thread of the swarm failed: {self._failed[0]}")
        total: Figures = {}
        for fleet in self._fleets:
            for name, value in fleet.counts().items():
                total[name] = total.get(name, 0) + value
        return total

    def reasons(self) -> Figures:
        total: Figures = {}
        for fleet in self._fleets:
            for number, count in fleet.reasons().items():
                total[name_of(number)] = total.get(name_of(number), 0) + count
        return total

    def stats(self) -> Figures:
        return {
            **self.counts(),
            "reasons": self.reasons(),
            "pong_ms": self._latency("pong"),
            "delivery_ms": self._latency("delivery"),
            "memory_bytes": _private_bytes(),
            "threads": len(self._fleets),
        }

    def _latency(self, kind: str) -> Figures:
        summary = Summary()
        for fleet in self._fleets:
            fleet.merge_into(kind, summary)
        return summary.as_ms()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self.counts())

    def _wait(self, is_done: Callable[[Figures], bool], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not is_done(self.counts()):
            if time.monotonic() > end:
                return False
            self._tell()
            time.sleep(self._pause_s)
        return True

    def _wait_calm(self) -> None:
        """Until all that was asked of the fleets is done; SwarmError where nothing moves any more."""
        last: Figures = {}
        moved = time.monotonic()
        while not all(fleet.is_calm for fleet in self._fleets):
            counts = self.counts()
            if counts != last:
                last, moved = counts, time.monotonic()
            elif time.monotonic() - moved > STUCK_S:
                raise SwarmError(f"nothing moved for {STUCK_S:g} s: {counts}")
            self._tell()
            time.sleep(self._pause_s)

    def _reset(self) -> None:
        for fleet in self._fleets:
            fleet.reset()
        self._wait_calm()

    @contextlib.contextmanager
    def _logins(self) -> Iterator[Figures]:
        self._reset()
        before, began = self.counts(), time.monotonic()
        figures: Figures = {}
        yield figures
        self._wait_calm()
        seconds = time.monotonic() - began
        after = self.counts()
        connected = after["connected"] - before["connected"]
        figures |= {
            "connected": connected,
            "failed": after["failed"] - before["failed"],
            "seconds": round(seconds, 3),
            "per_s": round(connected / seconds, 1),
            "login_ms": self._latency("login"),
        }
        if figures["failed"]:
            figures["reasons"] = self.reasons()
            figures["errno"] = [os.strerror(fleet.last_errno) for fleet in self._fleets if fleet.last_errno]

    # --- what can be done

    def connect(self, count: int, rate: float = 0.0, register: bool = True, at_once: int = 2_000) -> Figures:
        threads = len(self._fleets)
        with self._logins() as figures:
            for index, fleet in enumerate(self._fleets):
                fleet.connect(
                    count // threads + (index < count % threads), rate / threads, max(1, at_once // threads), register
                )
        return figures

    def drop(self, count: int | None = None, share: float | None = None, silent: bool = False) -> Figures:
        before = self.counts()
        count = count if count is not None else round(before["online"] * (1.0 if share is None else share))
        threads = len(self._fleets)
        for index, fleet in enumerate(self._fleets):
            fleet.drop(count // threads + (index < count % threads), silent)
        self._wait_calm()
        return {"dropped": self.counts()["dropped"] - before["dropped"]}

    def reconnect(self, rate: float = 0.0, at_once: int = 2_000) -> Figures:
        threads = len(self._fleets)
        with self._logins() as figures:
            for fleet in self._fleets:
                fleet.reconnect(rate / threads, max(1, at_once // threads))
        return figures

    def storm(self, at_once: int = 2_000) -> Figures:
        """All drop, and come back as fast as it goes."""
        self.drop(silent=True)
        return self.reconnect(0.0, at_once)

    def idle(self, seconds: float) -> Figures:
        self._reset()
        before = self.counts()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._tell()
            time.sleep(min(0.05, max(0.0, end - time.monotonic())))
        after = self.counts()
        return {
            "heartbeats": after["heartbeats"] - before["heartbeats"],
            "lost": after["lost"] - before["lost"],
            "online": after["online"],
            "pong_ms": self._latency("pong"),
        }

    def push(
        self,
        rate: float = 0.0,
        seconds: float = 10.0,
        batch: int = 1_000,
        bytes: int = 100,
        targets: str = "online",
        window: int = 10_000,
        connections: int = 1,
    ) -> Figures:
        """Directed pushes to random devices; `rate` 0: as many as the window lets."""
        if targets not in ("online", "away"):
            raise SwarmError("targets is online or away")
        options = self._options
        limit = -(-1_000_000 // len(self._fleets))
        packed = pack_targets(self._fleets, targets == "online", options.is_mqtt, limit)
        self._reset()
        before = self.counts()
        publishers = [
            self._publisher(
                rate=rate / connections,
                seconds=seconds,
                batch=batch,
                text_bytes=bytes,
                window=window,
                seed=index,
                targets=packed,
            )
            for index in range(connections)
        ]
        self._publish(publishers, seconds + 20)
        figures = _add(publisher.counts() for publisher in publishers)
        expected = before["notified"] + figures["accepted"]
        if targets == "online":
            self._wait(lambda counts: counts["notified"] >= expected, 5.0)
        after = self.counts()
        took = max(publisher.seconds for publisher in publishers) or seconds
        answered = max(max(publisher.answered_seconds for publisher in publishers), took)
        delivered = after["notified"] - before["notified"]
        return {
            "offered": figures["offered"],
            "accepted": figures["accepted"],
            "refused": figures["refused"],
            "delivered": delivered,
            "duplicates": after["duplicates"] - before["duplicates"],
            "seconds": round(took, 3),
            "offered_per_s": round(figures["offered"] / took, 1),
            "accepted_per_s": round(figures["accepted"] / answered, 1),
            "delivered_per_s": round(delivered / answered, 1),
            "accept_ms": publishers[0].accept_ms(),
            "delivery_ms": self._latency("delivery"),
        }

    def _publisher(
        self,
        *,
        seconds: float,
        batch: int,
        text_bytes: int,
        window: int,
        rate: float = 0.0,
        most: int = 0,
        everyone: bool = False,
        qos: int = 1,
        seed: int = 0,
        targets: builtins.bytes = b"",
    ) -> Publisher:
        options = self._options
        return Publisher(
            self._host,
            options.port,
            mqtt=options.is_mqtt,
            key=options.key.encode(),
            rate=rate,
            seconds=seconds,
            most=most,
            batch=batch,
            text_bytes=text_bytes,
            window=window,
            everyone=everyone,
            qos=qos,
            seed=seed,
            targets=targets,
        )

    def broadcast(self, count: int = 1, bytes: int = 100, timeout_s: float = 60.0, qos: int = 1) -> Figures:
        """So many broadcasts to everyone at once; until each device on line has all of them."""
        self._reset()
        before = self.counts()
        expected = count * before["online"]
        publisher = self._publisher(
            seconds=timeout_s, most=count, batch=count, text_bytes=bytes, window=60_000, everyone=True, qos=qos
        )
        self._publish([publisher], timeout_s + 20)
        counts = publisher.counts()
        if counts["refused"]:
            raise SwarmError(f"{counts['refused']} of {count} broadcasts were refused")
        self._wait(lambda now: now["notified"] - before["notified"] >= expected, timeout_s)
        after = self.counts()
        delivered = after["notified"] - before["notified"]
        last_ns = max(fleet.last_notified_ns for fleet in self._fleets)
        seconds = max((last_ns - publisher.began_ns) / 1e9, 1e-9)
        return {
            "expected": expected,
            "delivered": delivered,
            "seconds": round(seconds, 4),
            "per_s": round(delivered / seconds, 1),
            "delivery_ms": self._latency("delivery"),
        }

    def _publish(self, publishers: list[Publisher], timeout_s: float) -> None:
        threads = [threading.Thread(target=publisher.run, daemon=True) for publisher in publishers]
        for thread in threads:
            thread.start()
        end = time.monotonic() + timeout_s
        while any(thread.is_alive() for thread in threads):
            if time.monotonic() > end:
                for publisher in publishers:
                    publisher.stop()
            self._tell()
            time.sleep(self._pause_s)
        for publisher in publishers:
            error = publisher.counts()["error"]
            if error:
                raise SwarmError(f"the publisher's connection ended: {_publisher_error(error)}")

    # --- credentials

    def save(self, path: Path) -> Figures:
        """Ids, secrets and tokens, readable by this user only."""
        count = 0
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(_MAGIC + len(self._fleets).to_bytes(4, "little"))
            for fleet in self._fleets:
                size = fleet.counts()["devices"]
                count += size
                file.write(size.to_bytes(4, "little"))
                for first in range(0, size, 10_000):
                    file.write(fleet.save(first, 10_000))
        return {"saved": count}

    def load(self, path: Path) -> Figures:
        """Devices of a file that are away now; `reconnect` brings them back."""
        count = 0
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC or int.from_bytes(file.read(4), "little") != len(self._fleets):
                raise SwarmError(f"{path} holds no devices of a swarm with {len(self._fleets)} threads")
            for fleet in self._fleets:
                size = int.from_bytes(file.read(4), "little")
                records = file.read(size * _RECORD_BYTES)
                if len(records) != size * _RECORD_BYTES:
                    raise SwarmError(f"{path} is cut")
                fleet.load(records)
                count += size
        return {"loaded": count}


def _add(all_counts: Any) -> Figures:
    total: Figures = {}
    for counts in all_counts:
        for name, value in counts.items():
            total[name] = total.get(name, 0) + value
    return total


def _private_bytes() -> int:
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Anonymous"))


def check_key(options: Options) -> None:
    """ConfigError where a push is asked for and no key is given."""
    if not options.is_mqtt and not options.key:
        raise ConfigError("a push needs an API key of the app: --key or HELIOGRAPH_KEY", field="key")
