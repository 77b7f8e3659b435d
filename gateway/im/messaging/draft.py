"""A message as its sender gives it, before it is addressed to each recipient (D3 to D8, D13, D15); pure."""

from __future__ import annotations

from typing import NamedTuple

from gateway.model.errors import InvalidField
from gateway.model.im import Conversation, ConversationKind, Envelope, Geo, Kind, Media, Person


class Recipient(NamedTuple):
    """One of four: a conversation of a bound account, one of our users, a group of theirs, a site by the name of its
    account (D13)."""

    account: int | str | None = None
    conversation: str = ""
    kind: ConversationKind = ConversationKind.DM
    user: str = ""
    group: str = ""
    site: str = ""

    def check(self, field: str) -> None:
        """InvalidField where it is not exactly one."""
        ways = [self.account is not None, bool(self.user), bool(self.group), bool(self.site)]
        if sum(ways) != 1:
            raise InvalidField("give exactly one of account, user, group and site", field=field)
        if self.account is not None and not self.conversation and self.kind is not ConversationKind.FEED:
            raise InvalidField("an account needs the conversation beside it", field=f"{field}.conversation")

    def __repr__(self) -> str:
        return "Recipient(hidden)"


class Draft(NamedTuple):
    text: str = ""
    subject: str = ""
    #: names in the media store
    media: tuple[str, ...] = ()
    geo: Geo | None = None
    #: remote ids
    reply_to: str = ""
    replaces: str = ""

    def check(self, max_text_bytes: int) -> None:
        """InvalidField."""
        if not (self.text or self.media or self.geo or self.replaces or self.subject):
            raise InvalidField("a message needs a text, a subject, media or a place", field="text")
        if len(self.text.encode("utf-8", "replace")) > max_text_bytes:
            raise InvalidField(f"longer than {max_text_bytes} bytes (im.max_text_bytes)", field="text")
        for field, text in (("text", self.text), ("subject", self.subject)):
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                raise InvalidField("half a character (a surrogate) is none", field=field)

    def size(self) -> int:
        """Of its texts, bytes of UTF-8."""
        texts = (self.text, self.subject, self.reply_to, self.replaces)
        return sum(len(text.encode("utf-8", "replace")) for text in texts)

    def kind(self, conversation: Conversation, network: str) -> Kind:
        if self.replaces:
            return Kind.EDIT if self.text or self.media else Kind.REDACTION
        if network == "mail":
            return Kind.MAIL
        if conversation.kind is ConversationKind.FEED:
            return Kind.POST
        if self.media:
            return Kind.MEDIA
        return Kind.LOCATION if self.geo is not None else Kind.TEXT

    def address(
        self, conversation: Conversation, network: str, media: tuple[Media, ...], sender: Person, txn_id: str
    ) -> Envelope:
        return Envelope(
            network=network,
            conversation=conversation,
            sender=sender,
            kind=self.kind(conversation, network),
            text=self.text,
            subject=self.subject,
            media=media,
            geo=self.geo,
            reply_to=self.reply_to,
            replaces=self.replaces,
            txn_id=txn_id,
        )

    def __repr__(self) -> str:
        return f"Draft({len(self.text)} characters, {len(self.media)} media)"
