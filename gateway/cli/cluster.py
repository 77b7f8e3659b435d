"""`heliograph cluster`: a fleet as NATS has it; asks no node, and changes one only by `import` and `recover`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from gateway.cli.cluster_import import import_store_of
from gateway.cli.cluster_recovery import recover
from gateway.cli.options import ConfigFile, Json, Overrides, read_config
from gateway.cli.output import CommandFailed, print_json, print_table, say

if TYPE_CHECKING:
    from gateway.cluster.fleet_status import FleetStatus

group = typer.Typer(no_args_is_help=True, add_completion=False)
group.command(name="import")(import_store_of)


@group.callback()
def cluster() -> None:
    """A fleet of gateways on NATS: its members, who owns what, its streams; what to do where a journal is lost.

    Each command asks NATS and no node, with the configuration of any node (--config). Exit codes: 0 done and well, 1
    not so, 2 wrong usage or configuration.
    """


group.command()(recover)


@group.command()
def status(config: ConfigFile = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """Members, partitions with owner and epoch, streams with size and copies in sync, from NATS itself.

    Exit codes: 0 each partition is served by a live node, each journal is what it was, each stream has a leader; 1 not
    so, or NATS does not say it; 2 wrong usage or configuration, or there is no such fleet.

    [dim]heliograph cluster status --config /etc/heliograph.toml[/dim]
    [dim]heliograph cluster status --config /etc/heliograph.toml --json[/dim]
    """
    import asyncio

    from gateway.cluster.fleet_status import look
    from gateway.config.logging import setup_logging
    from gateway.config.sections import Log
    from gateway.model.errors import ConfigError

    settings = read_config(config, overrides).cluster
    if not settings.url:
        raise ConfigError(
            "is empty, as of a gateway alone: give the configuration of a node (--config)", field="cluster.url"
        )
    # what is wrong is in the command's own answer, and stdout is for that alone
    setup_logging(Log(level="error", format="text"))
    found = asyncio.run(look(settings))
    if as_json:
        print_json(found)
    else:
        _print(found)
    if problem := what_is_wrong(found):
        raise CommandFailed(problem)


def keys_of(has: int, newest: int) -> str:
    """How the column says which revision of the fleet's keys a node has."""
    if has == newest:
        return str(has)
    # a revision that the fleet's keys have not got to is one of another bucket's
    return f"{has or 'of its start'}, {'behind' if has < newest else 'of other records'}"


def _print(found: FleetStatus) -> None:
    print_table(
        ("node", "number", "state", "devices", "partitions", "for devices", "for providers", "version", "keys"),
        (
            [
                member.name,
                member.number,
                "silent" if not member.is_live else "draining" if member.draining else "live",
                member.links,
                member.partitions,
                member.devices,
                member.api,
                member.version,
                keys_of(member.keys, found.keys),
            ]
            for member in found.members
        ),
        title=f"fleet {found.name}, keys {found.keys}",
    )
    for member in found.members:
        if member.strangers:
            say(
                f"node {member.name} has {member.strangers} partition folders of another fleet in its store.path, and"
                " uses nothing of them; its log names them (partition_folders_of_another_fleet)"
            )
    print()
    print_table(
        ("partition", "owner", "epoch", "state", "problem"),
        (
            [
                each.partition,
                each.owner or "nobody",
                each.epoch,
                "serves" if each.ready and each.owner else "waits",
                each.problem,
            ]
            for each in found.partitions
        ),
    )
    print()
    print_table(
        ("stream", "messages", "bytes", "last", "in sync", "leader"),
        (
            [
                stream.name,
                stream.messages,
                stream.bytes,
                stream.last,
                f"{stream.in_sync} of {stream.replicas}",
                stream.leader or ("none" if not stream.in_sync else ""),
            ]
            for stream in found.streams
        ),
    )


def what_is_wrong(found: FleetStatus) -> str:
    live = {member.name for member in found.members if member.is_live}
    waiting = [str(each.partition) for each in found.partitions if not each.ready or each.owner not in live]
    without = [stream.name for stream in found.streams if not stream.in_sync]
    lost = [str(each.partition) for each in found.partitions if each.problem]
    words = []
    if found.importing:
        words.append(
            "an import is not finished, and no node starts before: `heliograph cluster import STORE` finishes it"
        )
    if waiting:
        remedy = "" if live or found.importing else ": no node lives, start them (heliograph serve)"
        words.append(f"nobody serves partitions {', '.join(waiting)}{remedy}")
    if lost:
        words.append(
            f"the journals of partitions {', '.join(lost)} are not what they had: heliograph cluster recover {lost[0]}"
            " tells what there still is"
        )
    if without:
        words.append(
            f"streams without a leader: {', '.join(without)}; see that most NATS servers run and reach each other"
        )
    return "; ".join(words)
