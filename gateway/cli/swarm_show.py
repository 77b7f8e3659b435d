"""Prints what a swarm does: a line of progress while it runs, a table at its end."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from gateway.cli.output import print_table

#: how often the line is written where nobody watches
PLAIN_S = 5.0
LINE_S = 0.2


class Line:
    """Progress on stderr: one line that is written over on a terminal, one every few seconds elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._phase = ""
        self._next = 0.0
        self._began = time.monotonic()

    def phase(self, text: str) -> None:
        self._phase = text
        self._next = 0.0

    def __call__(self, counts: dict[str, Any]) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (LINE_S if self._is_terminal else PLAIN_S)
        text = (
            f"{now - self._began:6.1f} s  {self._phase:<14} on line {counts['online']:>9,}  lost {counts['lost']:,}"
            f"  got {counts['notified']:,}  heartbeats {counts['heartbeats']:,}"
        )
        self._stream.write(f"\r{text}\033[K" if self._is_terminal else f"{text}\n")
        self._stream.flush()

    def end(self) -> None:
        if self._is_terminal:
            self._stream.write("\r\033[K")
            self._stream.flush()


def _latency(figures: dict[str, Any]) -> str:
    return f"p50 {figures['p50']:g}  p99 {figures['p99']:g}  max {figures['max']:g} ms" if figures["count"] else "-"


def print_summary(steps: dict[str, dict[str, Any]]) -> None:
    """A row a step."""
    rows: list[tuple[str, str, str]] = []
    for name, step in steps.items():
        if "login_ms" in step:
            what = f"{step['connected']:,} logins in {step['seconds']:g} s, {step['per_s']:,.0f}/s"
            if step["failed"]:
                reasons = ", ".join(f"{reason} {n:,}" for reason, n in step.get("reasons", {}).items())
                what += f"; {step['failed']:,} failed ({reasons})"
            rows.append((name, what, _latency(step["login_ms"])))
        elif "expected" in step:
            what = f"{step['delivered']:,} of {step['expected']:,} in {step['seconds']:g} s, {step['per_s']:,.0f}/s"
            rows.append((name, what, _latency(step["delivery_ms"])))
        elif "offered" in step:
            what = f"{step['accepted']:,} of {step['offered']:,} accepted, {step['delivered']:,} delivered"
            what += f", {step['delivered_per_s']:,.0f}/s"
            rows.append((name, what, _latency(step["delivery_ms"])))
        elif "pong_ms" in step and "lost" in step and "heartbeats" in step:
            what = f"{step['heartbeats']:,} heartbeats, {step['lost']:,} lost"
            rows.append((name, what, _latency(step["pong_ms"])))
    print_table(("step", "what", "latency"), rows)
