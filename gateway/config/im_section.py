"""Settings of IM aggregation (docs/im.md): the section `im`; must hold no logic."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.config.bounds import within


@dataclass(slots=True)
class Im:
    """IM aggregation: users, bound accounts, messages, media (docs/im.md)."""

    # app whose registrations are devices of IM users; made at the start where it is not there; empty: no IM
    app: str = ""
    # networks that users may bind accounts of: xmpp, matrix, irc, mail, bluesky, mastodon
    networks: list[str] = field(default_factory=lambda: ["xmpp", "matrix", "irc", "mail", "bluesky", "mastodon"])
    # accounts may name servers on loopback and in private networks: for closed networks and tests only
    private_hosts: bool = False
    # how a one-time code reaches a number: sms (needs paging.smscs), log (to try it out: anybody who reads the log can
    # sign in), none (no numbers)
    phone_codes: str = "none"
    # how a one-time code reaches a mailbox: smtp (needs im.smtp_host), log, none
    mail_codes: str = "none"
    # a code is worth something for so long
    code_s: float = within(600.0, 1, 86_400)
    # wrong codes for one address, after which a new one has to be asked for
    code_tries: int = within(5, 1, 100)
    # codes for one address in an hour
    codes_per_hour: int = within(5, 1, 10_000)
    # codes for one address in a day: nobody is flooded, and 6 digits are not guessed
    codes_per_day: int = within(20, 1, 100_000)
    # codes for all addresses together in an hour; past it nobody gets one (counted): messages cost money
    codes_total_per_hour: int = within(10_000, 1, 10_000_000)
    # register and verify over REST without a session, of one client address (IPv6: of its /64) in an hour; 0: no bound,
    # where a proxy in front has one: all who come through it have its address
    strangers_per_hour: int = within(60, 0, 10_000_000)
    # a session key of REST holds so long without being used
    session_days: float = within(90.0, 0.001, 3_650)
    # addresses one user may sign in with
    addresses_per_user: int = within(8, 1, 1_000)
    # names one user may try in a day for a mailbox in mail_domain: that a name is taken tells of another
    mailbox_tries_per_day: int = within(20, 1, 100_000)
    # session keys of REST one user may have; past it the one that would end first ends (counted)
    session_keys_per_user: int = within(32, 1, 1_000)
    # devices of one user
    devices_per_user: int = within(16, 1, 1_000)
    # accounts one user may bind
    accounts_per_user: int = within(32, 1, 1_000)
    # friends and requests of one user
    friends_per_user: int = within(10_000, 1, 1_000_000)
    # friend requests of one user in a day
    requests_per_day: int = within(50, 1, 100_000)
    # members of a group
    group_members: int = within(256, 2, 10_000)
    # groups of one user
    groups_per_user: int = within(500, 1, 100_000)
    # numbers in one question for contacts (D9)
    discovery_batch: int = within(2_000, 1, 100_000)
    # numbers one user may ask for in a day
    discovery_per_day: int = within(20_000, 1, 10_000_000)
    # what asks for others (contacts, friend requests) is answered in steps of this: how long an answer took must not
    # tell whether somebody is a user; 0: as soon as it can be
    answer_step_s: float = within(0.05, 0, 10)
    # a user's log goes back so long
    history_days: float = within(30.0, 0.001, 3_650)
    # and so many items; past it the oldest go, and what comes again of what is gone is shown again
    history_items: int = within(100_000, 100, 100_000_000)
    # and so many bytes, sealed
    history_bytes: int = within(67_108_864, 65_536, 1_099_511_627_776)
    # largest text, bytes of UTF-8
    max_text_bytes: int = within(32_768, 256, 1_048_576)
    # most recipients of one message (D4)
    recipients: int = within(100, 1, 10_000)
    # messages and acts of one account that wait for its network; past it a send is refused
    outgoing_per_account: int = within(1_000, 1, 1_000_000)
    # a message is tried for so long, then it has failed
    outgoing_s: float = within(86_400.0, 1, 2_592_000)
    # messages a user may send in a minute, a long one to a large group counting as several; and among our users as many
    # read marks, signs of typing and changes of groups
    sends_per_minute: int = within(120, 1, 1_000_000)
    # after a user's last device has gone, accounts stay connected so long
    linger_s: float = within(45.0, 0, 86_400)
    # accounts that are being connected at once; the others wait, those with a device that was active last first
    connects_at_once: int = within(32, 1, 10_000)
    # connects begun in a second
    connects_per_s: float = within(50.0, 0.1, 100_000)
    # a connect has to be over by then
    connect_s: float = within(60.0, 0.05, 3_600)
    # first pause after a lost connection; doubles, full jitter
    retry_s: float = within(2.0, 0.01, 3_600)
    # longest pause
    retry_max_s: float = within(300.0, 0.01, 86_400)
    # a connection that held so long begins at the first pause again
    stable_s: float = within(60.0, 0.01, 86_400)
    # failures in a row at one host, after which one account at a time tries it
    breaker_failures: int = within(5, 1, 10_000)
    # the pause between those tries
    breaker_s: float = within(30.0, 0.01, 86_400)
    # devices are told of an outage after so long
    outage_s: float = within(60.0, 0, 86_400)
    # one request to a network has to be over by then
    request_s: float = within(30.0, 0.05, 3_600)
    # events of one account that wait to be logged; past it nothing more is read from its network
    account_events: int = within(256, 1, 100_000)
    # IRC: lines sent at once; servers kick who sends faster than they like
    irc_burst: int = within(5, 1, 1_000)
    # IRC: and one more line in so long
    irc_line_s: float = within(2.0, 0, 60)
    # IRC: a server that was silent so long is asked whether it is there
    irc_ping_s: float = within(90.0, 0.05, 3_600)
    # social sites are asked for news so often (D12)
    social_poll_s: float = within(60.0, 0.05, 86_400)
    # Bluesky: followed accounts that are read one by one, where the server has no timeline
    social_follows: int = within(500, 1, 100_000)
    # threads for connectors whose library blocks (mail), for all accounts together
    connector_threads: int = within(16, 1, 1_000)
    # a mailbox that waits for news asks anew after so long; servers hang up after half an hour, some hosts much sooner
    mail_idle_s: float = within(540.0, 1, 1_740)
    # accounts connected at once on this node; past it the ones whose devices were silent longest are disconnected
    max_sessions: int = within(20_000, 1, 1_000_000)
    # what the store could not take is tried again after so long
    store_retry_s: float = within(1.0, 0.001, 3_600)
    # when the gateway ends, sessions have so long to take leave
    close_s: float = within(5.0, 0.05, 600)
    # incoming files that are fetched at once; the others wait
    fetches_at_once: int = within(16, 1, 10_000)
    # the files of one incoming message have to be here by then; after that it arrives without them, and says so
    fetch_s: float = within(120.0, 0.05, 86_400)
    # friends are told at most once in this time that somebody came or went
    presence_s: float = within(2.0, 0, 3_600)
    # domain of the mailboxes that users have here; empty: none
    mail_domain: str = ""
    # address the mail listener binds
    mail_host: str = "127.0.0.1"
    # its SMTP port; 0 takes a free one; -1: none
    mail_port: int = within(-1, -1, 65_535)
    # it speaks LMTP (RFC 2033) instead: behind a mail server of one's own
    mail_lmtp: bool = False
    # largest mail taken
    mail_bytes: int = within(26_214_400, 1_024, 1_073_741_824)
    # connections of the mail listener at once
    mail_connections: int = within(100, 1, 100_000)
    # one mail has to have come in by then, and so long a connection may be silent
    mail_s: float = within(300.0, 0.05, 3_600)
    # mails that come in at the same time; past it others are told to come again (memory: so many times mail_bytes)
    mail_at_once: int = within(16, 1, 10_000)
    # server that takes our own mail: codes, and what is sent from mailboxes here
    smtp_host: str = ""
    # its port
    smtp_port: int = within(587, 1, 65_535)
    # never, starttls or tls
    smtp_tls: str = "starttls"
    # user name there; empty: none
    smtp_user: str = ""
    # file with the password
    smtp_password_file: str = ""
    # sender of codes
    smtp_from: str = ""
    # largest file
    media_bytes: int = within(104_857_600, 1_024, 1_099_511_627_776)
    # largest picture, pixels: what a small file can unpack to
    media_pixels: int = within(50_000_000, 10_000, 1_000_000_000)
    # bytes of media kept for one user
    media_user_bytes: int = within(1_073_741_824, 1_024, 1_099_511_627_776)
    # bytes of all media; past it an upload is refused, and old ones go first
    media_total_bytes: int = within(10_737_418_240, 1_024, 1_125_899_906_842_624)
    # media that nobody fetched or sent for so long go
    media_days: float = within(30.0, 0.001, 3_650)
    # an upload has to be over by then
    upload_s: float = within(86_400.0, 1, 2_592_000)
    # uploads of one user at once
    uploads_per_user: int = within(8, 1, 1_000)
    # uploads of all users at once
    uploads_at_once: int = within(10_000, 1, 1_000_000)
    # types that are taken, by what the bytes are and not by what they are called
    media_types: list[str] = field(
        default_factory=lambda: [
            "image/jpeg",
            "image/png",
            "image/gif",
            "image/webp",
            "audio/mpeg",
            "audio/ogg",
            "audio/mp4",
            "audio/wav",
            "audio/flac",
            "video/mp4",
            "video/webm",
            "video/quicktime",
            "application/pdf",
            "text/plain",
        ]
    )
    # longer side of a thumbnail, pixels
    thumbnail_pixels: int = within(320, 16, 4_096)
    # processes that make thumbnails
    thumbnail_processes: int = within(1, 1, 64)
    # a picture has to be looked at by then, or it is refused
    picture_s: float = within(20.0, 0.1, 600)
    # memory of a process that looks at one, address space
    picture_memory_bytes: int = within(1_073_741_824, 268_435_456, 68_719_476_736)
    # frames of a moving picture; all of them together have at most 16 times im.media_pixels
    picture_frames: int = within(1_000, 1, 100_000)
    # pictures that wait for a process; past it a picture is refused for now
    pictures_waiting: int = within(100, 1, 100_000)
    # a signed link is good for so long
    link_s: float = within(86_400.0, 1, 31_536_000)
    # what links begin with, as others reach the provider door: https://push.example; empty: its host and port
    public_url: str = ""
