"""Numbers with which an IRC server refuses a request (RFC 2812 §5.2 and those in use since), in words; sans I/O."""

from __future__ import annotations

from gateway.im.connectors.irc.lines import Line, fold
from gateway.model.im import Rejected, Transient

_REASONS = {
    "401": "there is nobody of this name here now",
    "402": "there is no such server",
    "403": "there is no such room",
    "404": "you may not speak in this room",
    "405": "you are in too many rooms",
    "407": "this names several people",
    "411": "nobody is named",
    "412": "there is nothing to send",
    "413": "this names several people",
    "417": "this line is too long for the server",
    "421": "the server does not know this",
    "442": "you are not in this room",
    "461": "something is missing",
    "471": "the room is full",
    "473": "the room is for those who are invited",
    "474": "you are banned from this room",
    "475": "the room has another key, or needs one",
    "476": "this is no name of a room",
    "477": "the room is for registered nicks",
    "478": "the room is full",
    "482": "you have no right to do this in the room",
    "484": "the connection is restricted",
    "486": "this person takes messages from registered nicks only",
    "489": "the room is for connections with TLS",
    "492": "the room takes none of this",
    "494": "your own settings keep the answer out",
    "520": "you have no right to do this in the room",
    "531": "this person takes no messages from you",
    "716": "this person takes no messages from you",
}
#: it names no target, or names it otherwise
_OF_ANY = frozenset({"411", "412", "417", "421", "461"})
_LATER = {"263": 10.0, "437": 30.0, "439": 60.0}


def check_answers(answers: list[Line], target: str) -> None:
    """What came between a request and its end. Rejected where it was refused, Transient where it may be taken
    later."""
    folded = fold(target)
    for line in answers:
        about = any(fold(parameter) == folded for parameter in line.parameters[1:])
        if line.command in _LATER:
            raise Transient("the server wants this slower", _LATER[line.command])
        if line.command in _REASONS and (about or line.command in _OF_ANY):
            raise Rejected(_REASONS[line.command])


def find_refused(answers: list[Line]) -> list[tuple[str, str]]:
    """Rooms that could not be joined, and why."""
    return [(line.parameter(1), _REASONS[line.command]) for line in answers if line.command in _REASONS]
