"""Cards and what is brought to them, as an answer shows them: by id, never by number."""

from __future__ import annotations

from typing import cast

from gateway.api.cards.wire import (
    AbilityName,
    CapabilityView,
    CardView,
    DownloadStateName,
    DownloadStepView,
    DownloadView,
    EvidenceView,
)
from gateway.model.cards import Ability, Capability, CardRecord, Download, DownloadState, build_card_id

ABILITIES = tuple(each.name.lower() for each in Ability)
STATES = tuple(each.name.lower() for each in DownloadState)


def _name(ability: int) -> AbilityName:
    return cast(AbilityName, Ability(ability).name.lower())


def view_capability(card: bytes, found: Capability, *, evidence: bool = False) -> CapabilityView:
    return CapabilityView(
        card=build_card_id(card),
        state=_name(found.ability),
        since_ms=found.since_ms or None,
        until_ms=found.until_ms or None,
        evidence=[
            EvidenceView(at_ms=line.at_ms, what=line.what, state=_name(line.ability), detail=line.detail)
            for line in found.evidence
        ]
        if evidence
        else None,
    )


def view_card(card: bytes, record: CardRecord, capability: Capability) -> CardView:
    return CardView(
        id=build_card_id(card),
        tags=list(record.tags),
        key_sets=[each.number for each in record.key_sets],
        push_keys=record.push_keys,
        data_keys=record.data_keys,
        tar=record.tar.hex(),
        push_tar=record.push_tar.hex(),
        capability=view_capability(card, capability),
    )


def view_download(download: Download, download_id: str, commands: int, campaign: str | None) -> DownloadView:
    """`commands`: how many its payload has."""
    return DownloadView(
        id=download_id,
        card=build_card_id(download.card),
        state=cast(DownloadStateName, DownloadState(download.state).name.lower()),
        created_at_ms=download.created_ms,
        expires_at_ms=download.expires_ms,
        due_at_ms=download.due_ms if download.due_ms and download.state == DownloadState.WAITING else None,
        commands=commands,
        done=download.done,
        way=download.way if download.way in ("link", "message") else "",  # type: ignore[arg-type]
        calls=download.calls,
        tries=download.tries,
        cause=download.cause,
        campaign=campaign,
        steps=[DownloadStepView(at_ms=step.at_ms, what=step.what, detail=step.detail) for step in download.steps],
    )
