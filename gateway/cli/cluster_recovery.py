"""`heliograph cluster recover`: what there is of a partition whose journal is lost, and how it goes on; must
never change anything without being told to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import ConfigFile, Json, Overrides, read_config
from gateway.cli.output import CommandFailed, print_fields, print_json, print_table, say

if TYPE_CHECKING:
    from gateway.cluster.recovery_survey import Survey

Source = Annotated[
    str,
    typer.Option(
        "--from",
        help="The copy to go on with: furthest, snapshot, stream (one that was restored from a backup, or made anew),"
        " the path of a node's folder partitions/<p>, or empty (give up all that it had).",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without this it is only told.")]


def recover(
    partition: Annotated[int, typer.Argument(help="The partition that nobody takes over.", min=0)],
    source: Source = "furthest",
    yes: Yes = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Go on with a partition whose journal is gone, made anew or shorter than it was.

    Tells every copy that there still is and what each lacks. With --yes the chosen copy becomes the partition's, and
    nodes take it over within seconds. Refuses where a node serves the partition, or its journal is whole. What ends in
    the middle is begun again by the same command. Run it where $TMPDIR has room for the partition.

    Exit codes: 0 a node takes it over now, 1 nothing was changed or it has to be run again (it says which), 2 wrong
    usage or configuration.

    [dim]heliograph cluster recover 5 --config /etc/heliograph.toml[/dim]
    [dim]heliograph cluster recover 5 --config /etc/heliograph.toml --yes[/dim]
    [dim]heliograph cluster recover 5 --config /etc/heliograph.toml --from /var/lib/heliograph/partitions/5 --yes[/dim]
    [dim]heliograph cluster recover 5 --config /etc/heliograph.toml --from empty --yes[/dim]
    """
    import asyncio

    from gateway.cli.recovery_folder import recovery_folder
    from gateway.cluster import recovery
    from gateway.config.logging import setup_logging
    from gateway.config.sections import Log
    from gateway.model.errors import ConfigError

    settings = read_config(config, overrides)
    if not settings.cluster.url:
        raise ConfigError(
            "is empty, as of a gateway alone: give the configuration of a node (--config)", field="cluster.url"
        )
    # what is wrong is in the command's own answer, and stdout is for that alone
    setup_logging(Log(level="error", format="text"))
    with recovery_folder(say) as work:
        try:
            survey = asyncio.run(recovery.look(settings, partition, work))
            if not as_json:
                _print(survey)
            recovery.require(survey)
            chosen = recovery.choose(survey, source)
            recovery.check_source(chosen, survey)
            say(what_may_be_lost(survey, chosen))
            if not yes:
                if as_json:
                    print_json(survey)
                raise CommandFailed("nothing was changed; --yes goes on like this, --from names another copy")
            done = asyncio.run(recovery.recover(settings, partition, source, work, say))
        except recovery.NotRecovered as exc:
            if as_json and not yes:
                print_json(survey)
            raise CommandFailed(exc.message) from None
    if as_json:
        print_json(done)
    else:
        say(f"partition {partition} goes on from {done.source}; a node takes it over within seconds (cluster status)")


def _print(survey: Survey) -> None:
    print_fields(
        (
            ("partition", survey.partition),
            ("journal", survey.reason or "whole"),
            ("had", f"commits up to place {survey.had}, as far as is known"),
            ("owner", f"{survey.owner} ({'serves it' if survey.serves else 'tries'})" if survey.owner else "nobody"),
            ("stream", survey.gap),
            ("silent nodes", survey.silent),
        )
    )
    print()
    print_table(
        ("copy", "place", "lacks", "in NATS"),
        (
            [
                copy.where,
                copy.place,
                "of another journal" if copy.is_other else max(0, survey.had - copy.place),
                "yes" if copy.in_nats else "no",
            ]
            for copy in survey.copies
        ),
    )


def what_may_be_lost(survey: Survey, chosen: str) -> str:
    """In words, for who has to say yes."""
    from gateway.cluster.recovery import EMPTY
    from gateway.cluster.recovery_survey import STREAM

    words = []
    if chosen == EMPTY:
        words.append(
            "EVERYTHING the partition had will be lost: registrations (their tokens are unknown until the devices"
            " register again), pushes that were accepted and not delivered, receipts, schedules"
        )
        if survey.partition == 0:
            words.append("partition 0 has the fleet's apps and keys: they are lost too, at all nodes")
    else:
        copy = next((copy for copy in survey.copies if copy.where == chosen), None)
        if copy is None:
            words.append(f"going on with {chosen}, whatever it has: what came after it is lost")
        elif copy.is_other:
            words.append(
                f"the {copy.where} is of another journal than the partition's last one: what only that one had is lost"
            )
        elif copy.place < survey.had:
            words.append(
                f"places {copy.place + 1} to {survey.had} of the journal are in no copy chosen here: registrations,"
                " pushes that were accepted and acks in them are lost; what was acked there is delivered once more"
            )
        else:
            words.append(
                f"the {copy.where} has all that is known of (place {copy.place}); what was accepted later than anybody"
                " knows of is lost"
            )
    if chosen == STREAM and survey.gap:
        words.append(
            f"{survey.gap}: it is gone on with only where this machine's node has in its folder"
            f" partitions/{survey.partition} what is missing"
        )
    if survey.silent:
        words.append(f"nodes that do not live may have a copy that is further: {', '.join(survey.silent)}")
    return "; ".join(words)
