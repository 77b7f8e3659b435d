"""The one error of every parser here; must never show the bytes it is about, for they may be a subscriber's."""

from __future__ import annotations


class Malformed(ValueError):
    """The bytes are not what they should be; the message says which length or value is wrong, and no more of it."""
