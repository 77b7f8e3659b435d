"""`heliograph swarm`: a fleet of devices for load tests; exits 1 where a device was refused or lost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.output import CommandFailed, print_json
from gateway.model.errors import ConfigError

if TYPE_CHECKING:
    from gateway.swarm.options import Options
    from gateway.swarm.swarm import Swarm

command = typer.Typer(add_completion=False)


@command.command()
def swarm(
    devices: Annotated[int, typer.Option("--devices", "-n", min=0, max=16_000_000, help="Devices to connect.")] = 1_000,
    rate: Annotated[float, typer.Option(min=0, help="Logins a second; 0: as fast as it goes.")] = 0.0,
    hold: Annotated[float, typer.Option(min=0, help="Seconds to stay on line and heartbeat.")] = 10.0,
    heartbeat: Annotated[float, typer.Option(min=0, help="Heartbeat interval, seconds; 0: none.")] = 60.0,
    ack: Annotated[str, typer.Option(help="all, none, a share such as 0.9, or late:MS.")] = "all",
    drop: Annotated[float, typer.Option(min=0, max=1, help="Share that drops after the hold and comes back.")] = 0.0,
    storm: Annotated[bool, typer.Option("--storm", help="All drop at once and come back as fast as it goes.")] = False,
    push_rate: Annotated[float, typer.Option(min=0, help="Directed pushes a second while they hold; needs --key.")] = 0,
    batch: Annotated[int, typer.Option(min=1, max=4_096, help="Most pushes in one frame of the stream.")] = 1_000,
    size: Annotated[int, typer.Option("--bytes", min=17, max=2_048, help="Text of a push.")] = 100,
    broadcast: Annotated[int, typer.Option(min=0, max=1_000, help="Broadcasts to everyone, at once; needs --key.")] = 0,
    host: Annotated[str, typer.Option(help="Gateway or broker.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Its port for devices.")] = 7400,
    node: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="One more gateway of the fleet; devices take turns.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="heliograph, or mqtt (3.1.1, any broker).")] = "heliograph",
    app: Annotated[str, typer.Option(help="App the devices register.")] = "demo",
    versions: Annotated[int, typer.Option(min=1, max=1_000, help="App versions they are spread over.")] = 20,
    key: Annotated[str, typer.Option(envvar="HELIOGRAPH_KEY", help="API key of the app, for pushes.")] = "",
    threads: Annotated[int, typer.Option(min=0, max=1_024, help="Threads; 0: as many as needed.")] = 0,
    at_once: Annotated[int, typer.Option(min=1, max=1_000_000, help="Logins under way at once.")] = 2_000,
    first_source: Annotated[int, typer.Option(min=0, help="First of the source addresses 127.a.b.1.")] = 0,
    devices_a_source: Annotated[int, typer.Option(help="Connections from one source address.")] = 14_000,
    save: Annotated[Path | None, typer.Option(help="Write ids, secrets and tokens to a file at the end.")] = None,
    load: Annotated[Path | None, typer.Option(help="Return as the devices of such a file.")] = None,
    json: Annotated[str, typer.Option("--json", metavar="FILE", help="Write all figures as JSON; - is stdout.")] = "",
    control: Annotated[bool, typer.Option("--control", help="Do what stdin says, a JSON object a line.")] = False,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="The host may be another machine.")] = False,
) -> None:
    """Connect thousands to millions of devices to a gateway (or a broker) and measure what they see.

    Checks first whether this machine lets it: open files, memory, ports. Then logs in, holds, pushes, drops; prints
    a table. Exit code 1 where a device was refused or lost, 2 where a limit is short.

    [dim]heliograph swarm --devices 10000 --rate 5000 --hold 30[/dim]
    [dim]heliograph swarm -n 100000 --storm --json result.json[/dim]
    [dim]heliograph swarm -n 10000 --protocol mqtt --port 1883 --push-rate 20000[/dim]
    """
    from gateway.cli.swarm_show import Line, print_summary
    from gateway.swarm.options import Options
    from gateway.swarm.swarm import Swarm, SwarmError, check_key

    if protocol not in ("heliograph", "mqtt"):
        raise ConfigError("--protocol takes heliograph or mqtt", field="protocol")
    options = Options(
        host=host,
        port=port,
        nodes=tuple(node or ()),
        protocol="mqtt" if protocol == "mqtt" else "heliograph",
        app=app,
        versions=versions,
        threads=threads,
        heartbeat_s=heartbeat,
        ack=ack,
        key=key,
        first_source=first_source,
        devices_a_source=devices_a_source,
        allow_remote=allow_remote,
    )
    if push_rate or broadcast:
        check_key(options)
    _check_limits(options, 0 if control else devices)
    try:
        if control:
            from gateway.swarm.control import serve

            with Swarm(options) as fleet:
                serve(fleet, sys.stdin, sys.stdout)
            return
        line = Line()
        steps: dict[str, dict[str, Any]] = {}
        with Swarm(options, line) as fleet:
            try:
                for name, step in _steps(
                    fleet,
                    load=load,
                    devices=devices,
                    rate=rate,
                    at_once=at_once,
                    hold=hold,
                    push_rate=push_rate,
                    batch=batch,
                    size=size,
                    broadcast=broadcast,
                    drop=drop,
                    storm=storm,
                ):
                    line.phase(name)
                    steps[name] = step()
            except KeyboardInterrupt:
                line.end()
                print("interrupted: this is what was measured until then", file=sys.stderr)
            steps["end"] = fleet.stats()
            if save is not None:
                fleet.save(save)
        line.end()
    except SwarmError as error:
        raise CommandFailed(str(error)) from None
    if json:
        _write_json(json, steps)
    if json != "-":
        print_summary(steps)
    lost = steps["end"]["lost"]
    if lost or any(step.get("failed") for step in steps.values()):
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in steps["end"]["reasons"].items())
        raise CommandFailed(f"{lost:,} devices were lost or refused ({reasons})")


def _steps(fleet: Swarm, **asked: Any) -> list[tuple[str, Any]]:
    """What to do, in order."""
    rate, at_once, hold = asked["rate"], asked["at_once"], asked["hold"]
    steps: list[tuple[str, Any]] = []
    if asked["load"] is not None:
        steps += [("load", lambda: fleet.load(asked["load"])), ("return", lambda: fleet.reconnect(rate, at_once))]
    else:
        steps.append(("connect", lambda: fleet.connect(asked["devices"], rate, True, at_once)))
    if hold:
        if asked["push_rate"]:
            steps.append(("push", lambda: fleet.push(asked["push_rate"], hold, asked["batch"], asked["size"])))
        else:
            steps.append(("hold", lambda: fleet.idle(hold)))
    if asked["broadcast"]:
        steps.append(("broadcast", lambda: fleet.broadcast(asked["broadcast"], asked["size"])))
    if asked["drop"]:
        steps.append(("drop", lambda: fleet.drop(share=asked["drop"])))
        steps.append(("come back", lambda: fleet.reconnect(rate, at_once)))
    if asked["storm"]:
        steps.append(("storm", lambda: fleet.storm(at_once)))
    return steps


def _check_limits(options: Options, devices: int) -> None:
    from gateway.swarm.limits import SPARE_FILES, find_shortages, raise_file_limit
    from gateway.swarm.options import SOURCES

    files = raise_file_limit()
    if not options.threads:  # as many as it takes: descriptors count for each thread by itself
        options.threads = max(options.thread_count, -(-devices // max(1, files - SPARE_FILES)))
    first, a_source = options.sources()
    shortages = find_shortages(
        devices,
        options.thread_count,
        both_ends=a_source != 0,
        files=files,
        devices_a_source=a_source,
        sources=SOURCES - first,
    )
    if devices and shortages:
        listed = "\n  ".join(str(shortage) for shortage in shortages)
        raise ConfigError(f"this machine does not let {devices:,} devices run:\n  {listed}")


def _write_json(target: str, steps: dict[str, dict[str, Any]]) -> None:
    import msgspec

    if target == "-":
        print_json(steps)
    else:
        Path(target).write_bytes(msgspec.json.format(msgspec.json.encode(steps), indent=2) + b"\n")
