"""Settings of what is done for cards (docs/ota.md): the section `ota`; must hold no logic."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.config.bounds import within


@dataclass(slots=True)
class Ota:
    """Reaching cards: the CAT_TP server, capability, downloads, campaigns (docs/ota.md)."""

    # address the CAT_TP server binds
    host: str = "127.0.0.1"
    # its UDP port; 0 takes a free one; -1: nothing is done for cards
    port: int = within(-1, -1, 65_535)
    # address that cards are told to connect to; empty: host
    public_address: str = ""
    # UDP port that cards are told to connect to; 0: port
    public_port: int = within(0, 0, 65_535)
    # CAT_TP port of the server, inside its UDP port
    cattp_port: int = within(9_000, 1, 65_535)
    # access point that cards open their channel on, where a card has none of its own
    apn: str = "internet"
    # bearer description as hex (ETSI TS 102 223 §8.52), where a card has none of its own
    bearer: str = "350103"
    # what a terminal is asked to buffer for a channel
    channel_buffer_bytes: int = within(1_400, 1, 65_535)
    # most links at once; past it a SYN gets no answer (counted)
    max_links: int = within(100_000, 1, 10_000_000)
    # links whose final ACK is not here yet; past it a SYN gets no answer (counted)
    max_half_open: int = within(10_000, 1, 10_000_000)
    # cards that were called and may connect; past it a call waits
    max_expected: int = within(200_000, 1, 10_000_000)
    # largest PDU taken; the card is told, and a larger one ends the link
    max_pdu_bytes: int = within(1_400, 32, 65_507)
    # largest SDU taken; the card is told, and a larger one ends the link
    max_sdu_bytes: int = within(4_096, 1, 65_535)
    # PDUs taken past the last one in order
    window: int = within(10, 1, 118)
    # PDUs on their way to a card at a time, whatever its window
    flight: int = within(10, 1, 118)
    # bytes that wait for a card's window; past it an SDU is refused
    queued_bytes: int = within(262_144, 1, 1_073_741_824)
    # wait for an acknowledgement before a round trip was measured
    rto_first_ms: int = within(3_000, 1, 600_000)
    # least wait for an acknowledgement
    rto_least_ms: int = within(2_000, 1, 600_000)
    # longest wait for an acknowledgement
    rto_most_ms: int = within(60_000, 1, 600_000)
    # tries of one PDU without progress, after which a link ends
    retries: int = within(10, 1, 255)
    # tries of a SYN/ACK, after which a link ends
    opening_retries: int = within(5, 1, 254)
    # ask a card for a sign of life after so long without one; 0: never
    keep_alive_s: float = within(1_200.0, 0, 86_400)
    # close a link after so long without an SDU either way; 0: never
    idle_s: float = within(120.0, 0, 86_400)
    # a closed window that holds something up for so long ends the link
    zero_window_s: float = within(120.0, 0.001, 86_400)
    # who sent a RST answers what still comes for so long
    close_wait_s: float = within(10.0, 0, 3_600)
    # held for all links together: SDUs that wait, PDUs out of order, SDUs in parts; past it PDUs are left for the card
    # to send again (counted), and an SDU that is refused ends its link
    busy_bytes: int = within(268_435_456, 65_536, 1_099_511_627_776)
    # RST to what has no link, at most so many a second; past it no answer (counted)
    refusals_per_s: int = within(1_000, 0, 1_000_000)
    # a card whose final ACK is not here yet is sent at most so many times the bytes that came from it (RFC 9000 §8.1
    # allows 3); past it SYN/ACK waits for its next SYN (counted)
    amplification: int = within(3, 1, 16)
    # the socket's buffers; past net.core.rmem_max only with CAP_NET_ADMIN
    socket_buffer_bytes: int = within(8_388_608, 4_096, 1_073_741_824)
    # each direction's mailbox between the server and the control thread
    mailbox_bytes: int = within(4_194_304, 65_536, 1_073_741_824)
    # sender of messages to cards: a number, or at most 11 letters and digits; empty: paging.sms_source
    source: str = ""
    # messages to cards a second, of each SMSC; 0: only paging.smsc_rate counts
    smsc_rate: float = within(20.0, 0, 100_000)
    # the same for single SMSCs, each system_id@host:port=rate
    smsc_rates: list[str] = field(default_factory=list)
    # incoming messages that wait for further parts; past it the oldest is dropped (counted)
    assemblies: int = within(10_000, 1, 10_000_000)
    # further parts are waited for so long
    assembly_s: float = within(600.0, 1, 86_400)
    # a card that was called has to be connected by then (E4)
    validity_s: float = within(300.0, 0.05, 86_400)
    # what is known of a terminal is believed for so long; then the next download asks again; 0: for ever
    capability_days: float = within(180.0, 0, 3_650)
    # lines of a card's evidence log; past it the oldest go
    evidence_lines: int = within(32, 4, 1_000)
    # check requests of one card that are answered in an hour; more are counted and not answered
    checks_per_hour: int = within(6, 1, 1_000_000)
    # calls for one download without progress, after which the user gets a notice (E6)
    attempts: int = within(5, 1, 1_000)
    # first pause before the next call; doubles, and each is cut by up to a half at random
    retry_s: float = within(60.0, 0.01, 86_400)
    # longest pause before the next call
    retry_max_s: float = within(21_600.0, 0.01, 604_800)
    # pause after an SMSC was not there, or throttling
    smsc_retry_s: float = within(10.0, 0.01, 86_400)
    # a download is kept trying for so long, where its request does not say
    ttl_s: int = within(604_800, 1, 31_536_000)
    # commands to a card that is not capable go by SMS where they fit so many messages; else it gets a notice (E7)
    sms_parts: int = within(4, 1, 255)
    # largest secured packet in one SDU, cut smaller where a card takes less
    packet_bytes: int = within(1_024, 64, 4_096)
    # packets on their way to one card before the answer to the first is here
    packets_at_once: int = within(1, 1, 64)
    # a packet has to be answered by then; else the link is closed and the download goes on in another
    answer_s: float = within(60.0, 0.05, 3_600)
    # what a user is told whose card can not be reached or is not capable; at most 160 characters of GSM 7 bit
    notice: str = "An update for your SIM is ready. Please visit a shop or our web site."
    # largest payload, all commands together
    payload_bytes: int = within(1_048_576, 1, 67_108_864)
    # commands in a payload
    payload_commands: int = within(10_000, 1, 1_000_000)
    # calls and transfers at once, over all; more wait for their turn
    at_once: int = within(5_000, 1, 1_000_000)
    # downloads in RAM that wait for their next try; past it campaigns release no more
    waiting: int = within(1_000_000, 1, 100_000_000)
