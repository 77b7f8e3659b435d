"""Several commands in one secured packet, and how far a card came with them; must never put one behind another that
ends its string.

Source: ETSI TS 102 226 §5.1, compact format: APDUs one after the other, `CLA INS P1 P2 P3 data`. One with outgoing data
has P3 for Le and no data, or Le behind its data, so it can only be the last. The answer is how many were executed, the
status word of the last one, and its data. A card stops at the first error, and counts the command that had it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.ota.malformed import Malformed

HEAD_BYTES = 5
#: the answer counts in one byte
MOST_COMMANDS = 255
SW_OK = 0x9000
#: first bytes of status words that are no error: done, with something to fetch or to tell
_GOOD = (0x91, 0x61, 0x9F)


def check_command(command: bytes) -> None:
    """Malformed: says what is wrong, and no byte of it."""
    if len(command) < HEAD_BYTES:
        raise Malformed("a command has at least five bytes: CLA INS P1 P2 P3")
    if len(command) > HEAD_BYTES and len(command) - HEAD_BYTES - command[4] not in (0, 1):
        raise Malformed("the data of a command is as long as P3 says, and at most Le comes behind it")


def ends_string(command: bytes) -> bool:
    """It has outgoing data, so nothing may come behind it."""
    if len(command) < HEAD_BYTES:
        return True  # it is none
    return len(command) > HEAD_BYTES + command[4] or (len(command) == HEAD_BYTES and command[4] != 0)


def build_commands(commands: Sequence[bytes]) -> bytes:
    """Malformed."""
    if not 0 < len(commands) <= MOST_COMMANDS:
        raise Malformed(f"a packet has 1 to {MOST_COMMANDS} commands")
    for command in commands:
        check_command(command)
    if any(ends_string(command) for command in commands[:-1]):
        raise Malformed("a command with outgoing data is the last of its packet")
    return b"".join(commands)


@dataclass(frozen=True, slots=True)
class CommandAnswer:
    #: commands that were executed, the one with the error too
    commands: int
    status_word: int
    data: bytes = field(default=b"", repr=False)

    @property
    def is_good(self) -> bool:
        return is_good(self.status_word)


def is_good(status_word: int) -> bool:
    return status_word == SW_OK or status_word >> 8 in _GOOD


def parse_command_answer(data: bytes) -> CommandAnswer:
    """Malformed."""
    if len(data) < 3:
        raise Malformed("an answer has a count and a status word")
    return CommandAnswer(data[0], int.from_bytes(data[1:3], "big"), data[3:])
