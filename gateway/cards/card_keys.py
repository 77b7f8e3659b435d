"""A card's key sets as packets use them, and what every packet asks for; must never show a key.

Every packet has a counter that must be higher, a cipher and a cryptographic checksum, and wants an answer that has all
three (ETSI TS 102 225 §5.1). In short messages the answer is asked for in a message of its own, for what is in a
delivery report does not come through most SMSCs (3GPP TS 31.115 §4.3).
"""

from __future__ import annotations

from gateway.model.cards import CardRecord
from gateway.ota.packet_security import Algorithm, Keys, Spi

SPI_MESSAGE = Spi(answer_in_submit=True)
SPI_LINK = Spi()


class Unusable(Exception):
    """What is known of a card is not enough to speak to it; `cause` says what is missing."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def find_keys(record: CardRecord, number: int) -> Keys:
    """Unusable."""
    found = record.key_set(number)
    if found is None:
        raise Unusable("no_keys")
    try:
        return Keys(found.number, Algorithm(found.algorithm), found.kic, found.kid)
    except ValueError:
        raise Unusable("bad_keys") from None
