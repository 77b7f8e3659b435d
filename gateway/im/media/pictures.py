"""What is asked of a process that looks at pictures, and what it answers; one line of JSON each."""

from __future__ import annotations

import msgspec


class Job(msgspec.Struct, kw_only=True):
    """A picture at `source`; what may be kept of it goes to `clean`, a small one to `small`."""

    source: str
    clean: str
    small: str
    mime: str
    #: of one frame; all together may have TOTAL times so many
    max_pixels: int
    max_frames: int
    #: longer side of the small picture
    edge: int
    #: seconds of processor time
    cpu_s: float


class Looked(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What was found, or why it is not taken."""

    refused: str = ""
    #: the disk did not take what was to be kept
    is_disk_full: bool = False
    width: int = 0
    height: int = 0
    #: empty: the picture is small enough itself
    small_mime: str = ""
    small_width: int = 0
    small_height: int = 0


#: pixels of all frames together, as a multiple of those of one picture
TOTAL = 16
