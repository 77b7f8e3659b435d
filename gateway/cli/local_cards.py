"""`heliograph local cards`: an SMSC behind which simulated cards live, to try what is done for cards; must never listen
anywhere else, nor print a key.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.local_server import build_hint, serve_local
from gateway.cli.output import CommandFailed, say
from gateway.model.errors import ConfigError

if TYPE_CHECKING:
    from gateway.tour.card_network import CardNetwork, Holder

#: a line that says how it goes, beside those of single cards
_SUM_S = 5.0


def parse_share(text: str, option: str) -> float:
    """`20%` or `0.2`. ConfigError."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(f"{option} is a share: 20% or 0.2")
    return share


def cards(
    count: Annotated[int, typer.Option("--count", min=1, max=100_000, help="How many.")] = 10,
    file: Annotated[
        Path, typer.Option("--file", help="Where to write them, a line each, for `heliograph cards import`.")
    ] = Path("cards.jsonl"),
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="The SMSC's; 0 takes a free one.")] = 2775,
    algorithm: Annotated[str, typer.Option("--algorithm", help="Of their keys: aes, 3des2 or 3des3.")] = "aes",
    incapable: Annotated[str, typer.Option("--incapable", help="Share of terminals that know no channels.")] = "0%",
    failing: Annotated[
        str, typer.Option("--failing", help="Share of terminals that open none, and say --result.")
    ] = "0%",
    result: Annotated[
        str, typer.Option("--result", help="What those say, as hex (ETSI TS 102 223 §8.12): 3A01, 20, …")
    ] = "3A01",
    off: Annotated[str, typer.Option("--off", help="Share of terminals that are switched off.")] = "0%",
    loss: Annotated[str, typer.Option("--loss", help="Share of datagrams that are lost, each way.")] = "0%",
    twice: Annotated[str, typer.Option("--twice", help="Share of datagrams that come twice.")] = "0%",
    delay_ms: Annotated[
        int,
        typer.Option("--delay-ms", min=0, max=60_000, help="Datagrams are late by up to so much, and out of order."),
    ] = 0,
    open_s: Annotated[
        float, typer.Option("--open-s", min=0, max=3_600, help="How long a terminal takes to open a channel.")
    ] = 0.0,
    move_every_s: Annotated[
        float, typer.Option("--move-every-s", min=0, help="Put a card into another terminal so often; 0: never.")
    ] = 0.0,
    seed: Annotated[str, typer.Option("--seed", help="The same cards and faults for the same word.")] = "trial",
    quiet: Annotated[bool, typer.Option("--quiet", help="Only sums, not what happens to each card.")] = False,
) -> None:
    """Simulated cards in terminals behind an SMSC, with real UDP sockets for their channels. Ctrl-C ends them.

    Writes their keys to --file (mode 600), brings the terminals up, and prints what happens to each card.

    SIGUSR1 puts every card into another terminal: each then asks to be checked.

    [dim]heliograph local cards --count 100 --incapable 20% --loss 5%[/dim]
    """
    from gateway.ota.malformed import Malformed
    from gateway.ota.result import parse_result
    from gateway.ota.sim.terminal import Behaviour
    from gateway.tour.card_issue import ALGORITHMS, issue, write_cards
    from gateway.tour.card_network import CardNetwork

    try:
        failure = parse_result(bytes.fromhex(result))
    except (ValueError, Malformed):
        raise ConfigError("--result is hex: a general result and what is behind it, as 3A01") from None
    names = {name: each for each, (name, _) in ALGORITHMS.items()}
    if algorithm not in names:
        raise ConfigError(f"--algorithm is one of {', '.join(names)}")
    options = {"--incapable": incapable, "--failing": failing, "--off": off, "--loss": loss, "--twice": twice}
    shares = {option: parse_share(text, option) for option, text in options.items()}
    chance = random.Random(seed)  # noqa: S311 - which of them misbehave
    behaviours: list[Behaviour] = []
    for number in range(count):
        draw = chance.random()
        is_incapable = draw < shares["--incapable"]
        is_failing = not is_incapable and draw < shares["--incapable"] + shares["--failing"]
        behaviours.append(
            Behaviour(
                capable=not is_incapable,
                failure=failure if is_failing else None,
                open_delay_s=open_s,
                loss=shares["--loss"],
                twice=shares["--twice"],
                delay_s=delay_ms / 1_000,
                seed=number,
            )
        )
    issued = [issue(number, seed.encode(), names[algorithm]) for number in range(count)]
    try:
        write_cards(issued, file)
    except OSError as exc:
        raise CommandFailed(f"{file} can not be written: {os.strerror(exc.errno or 0)}") from None

    def show(number: int, word: str, detail: str) -> None:
        if not quiet:
            # what a user reads may hold anything
            words = json.dumps(detail) if word == "text" else detail
            print(f"card {number}: {word}{', ' if words else ''}{words}", flush=True)

    network = CardNetwork(issued, behave=behaviours.__getitem__, know_terminals=True, on_event=show)
    mute = sum(not behaviour.capable for behaviour in behaviours)
    broken = sum(behaviour.failure is not None for behaviour in behaviours)
    if mute or broken:
        say(f"{mute} terminals know no channels, {broken} open none")
    on = [holder for holder in network.holders if chance.random() >= shares["--off"]]
    asyncio.run(_serve(network, on, port, file, move_every_s))


async def _serve(network: CardNetwork, on: list[Holder], port: int, file: Path, move_every_s: float) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def start() -> tuple[str, str]:
        where = f"127.0.0.1:{await network.start(port)}"
        for holder in on:
            await network.power_on(holder)
        tasks.append(asyncio.create_task(_sum_up(network)))
        if move_every_s:
            tasks.append(asyncio.create_task(_move_in_turn(network, on, move_every_s)))
        moving: set[asyncio.Task[None]] = set()

        def move_all() -> None:
            task = asyncio.ensure_future(_move(network, on))
            moving.add(task)
            task.add_done_callback(moving.discard)

        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, move_all)
        smsc = network.smsc
        what = f"CARDS at {where}, {len(on)} of {len(network.holders)} terminals on, system_id {smsc.system_id}"
        say(f"bring the cards in: heliograph cards import {file}")
        return f"{what}, password {smsc.password}", build_hint(
            f"--set ota.port=0 --set paging.smscs=smpp://{smsc.system_id}@{where} --set paging.smsc_password_file=FILE"
        )

    async def close() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await network.close()
        say(describe_sums(network))

    await serve_local(start, close, port)


async def _move(network: CardNetwork, holders: list[Holder]) -> None:
    for holder in holders:
        await network.move(holder)


async def _move_in_turn(network: CardNetwork, holders: list[Holder], every_s: float) -> None:
    for holder in itertools.cycle(holders):
        await asyncio.sleep(every_s)
        await network.move(holder)


async def _sum_up(network: CardNetwork) -> None:
    said = ""
    while True:
        await asyncio.sleep(_SUM_S)
        words = describe_sums(network)
        if words != said:
            say(words)
        said = words


def describe_sums(network: CardNetwork) -> str:
    counts = network.counts
    executed = sum(len(holder.card.executed) for holder in network.holders)
    links = sum(holder.card.link is not None for holder in network.holders)
    return (
        f"{counts['submitted']} messages to cards, {counts['delivered']} delivered; {counts['said_taken']} from cards;"
        f" {executed} commands executed; {links} links open"
    )
