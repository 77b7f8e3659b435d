"""A small payload by short messages, packet by packet, each with its proof of receipt (E7); must never send more than
`ota.sms_parts` messages for one, nor take a command for executed without a proof.

Packets of messages share their counters with PUSH, so one in doubt is sent anew: at least once.
"""

from __future__ import annotations

from gateway.cards.calls import Calls, Ended, Ending
from gateway.cards.download_policy import Event
from gateway.cards.packets import Unbringable, build_batch, pack, parts_bytes, room
from gateway.cards.progress import Progress
from gateway.cards.transfer import Happened
from gateway.config.ota_section import Ota
from gateway.metrics import Metric, Metrics
from gateway.model.cards import CardRecord
from gateway.ota.command_string import parse_command_answer
from gateway.ota.malformed import Malformed
from gateway.ota.packet_security import Keys
from gateway.ota.secured_packet import Transport

_EVENTS = {
    Ending.CARD: Event.CARD,
    Ending.REFUSED: Event.REFUSED,
    Ending.UNDELIVERED: Event.UNDELIVERED,
    Ending.LATER: Event.LATER,
    Ending.UNREACHABLE: Event.UNREACHABLE,
}


async def send_by_message(
    calls: Calls, progress: Progress, record: CardRecord, keys: Keys, settings: Ota, metrics: Metrics
) -> Happened:
    """The caller holds the card."""
    room_bytes = room(parts_bytes(settings.sms_parts), keys.block_bytes, Transport.SMS)
    download = progress.download
    try:
        for batch in pack(progress.commands, download.done, room_bytes):
            data = build_batch(progress.commands, batch)
            metrics.count(Metric.OTA_PACKETS, label="sent")
            answer = await calls.ask(download.card, record, keys, download.tar or record.tar, data)
            said = parse_command_answer(answer.data)
            if not said.is_good:
                progress.executed(max(0, min(said.commands, batch.size) - 1), planned=False)
                at = progress.download.done + 1
                return Happened(Event.REFUSED, f"{said.status_word:04X} at command {at}")
            if not 0 < said.commands <= batch.size:
                return Happened(Event.REFUSED, "answer makes no sense")
            metrics.count(Metric.OTA_PACKETS, label="executed")
            progress.executed(said.commands, planned=False)
            if said.commands < batch.size:
                return Happened(Event.CARD, "stopped early")
    except Ended as ended:
        called = ended.called
        # silence, or an error without a check: neither proves anything of a message that a card may have executed
        event = _EVENTS.get(called.ending, Event.NO_ANSWER)
        return Happened(event, called.detail or called.ending.value, called.retry_after_ms)
    except Unbringable as error:
        return Happened(Event.IMPOSSIBLE, str(error))
    except Malformed:
        return Happened(Event.REFUSED, "answer makes no sense")
    return Happened(Event.DONE)
