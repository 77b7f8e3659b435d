"""A process of its own that looks at pictures of strangers: strips them, tries whether they can be decoded, makes small
ones. Bounded in memory, processor time and open files; it may die of a picture, and only that picture is
lost. Must never be imported by the gateway: it is run.
"""

from __future__ import annotations

import io
import math
import os
import resource
import sys
import warnings
from typing import Any

import msgspec
from PIL import Image, ImageOps

from gateway.im.media.picture_metadata import Malformed, Stripped, strip
from gateway.im.media.pictures import TOTAL, Job, Looked

#: a still picture of at most so many bytes, no longer than the edge, needs no smaller one
_SMALL_BYTES = 65_536
#: a colour profile beyond it is not put into a small picture
_PROFILE_BYTES = 65_536
_QUALITY = 80
_OPEN_FILES = 32
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/gif": "GIF", "image/webp": "WEBP"}


def look(job: Job) -> Looked:
    """OSError where the disk does not take it."""
    with open(job.source, "rb") as source:
        raw = memoryview(source.read())
    try:
        stripped = strip(job.mime, raw)
        _check(stripped, job)
    except Malformed as exc:
        return Looked(refused=f"it is no whole picture: {exc}")
    size = _write(job.clean, stripped)
    width, height = stripped.shown
    looked = Looked(width=width, height=height)
    try:
        _shrink(job, looked, is_small=size <= _SMALL_BYTES and stripped.frames == 1)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Looked(refused="it has too many pixels")
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, ZeroDivisionError) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise
        return Looked(refused="it can not be decoded")
    return looked


def _check(stripped: Stripped, job: Job) -> None:
    if stripped.frame_pixels > job.max_pixels or stripped.pixels > TOTAL * job.max_pixels:
        raise Malformed("it has too many pixels")
    if stripped.frames > job.max_frames:
        raise Malformed("it has too many frames")


def _write(path: str, stripped: Stripped) -> int:
    with open(path, "xb") as file:
        return sum(file.write(piece) for piece in stripped.pieces)


def _shrink(job: Job, looked: Looked, *, is_small: bool) -> None:
    """Decode what is kept, and not what came."""
    with Image.open(job.clean, formats=(_FORMATS[job.mime],)) as image:
        if job.mime == "image/jpeg":
            image.draft("RGB", (2 * job.edge, 2 * job.edge))
        image.load()
        if is_small and max(looked.width, looked.height) <= job.edge:
            return
        profile = image.info.get("icc_profile")
        shown = ImageOps.exif_transpose(image)
        has_alpha = "A" in shown.getbands() or "transparency" in shown.info
        small = shown.convert("RGBA" if has_alpha else "RGB")
        small.thumbnail((job.edge, job.edge), Image.Resampling.BICUBIC, reducing_gap=2.0)
        small.info.clear()
        more: dict[str, Any] = {}
        if isinstance(profile, bytes) and len(profile) <= _PROFILE_BYTES and image.mode in ("RGB", "RGBA", "P"):
            more["icc_profile"] = profile
        out = io.BytesIO()
        if has_alpha:
            small.save(out, "PNG", **more)
        else:
            small.save(out, "JPEG", quality=_QUALITY, **more)
        with open(job.small, "xb") as file:
            file.write(out.getbuffer())
        looked.small_mime = "image/png" if has_alpha else "image/jpeg"
        looked.small_width, looked.small_height = small.size


def _bound(memory_bytes: int) -> None:
    for what, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (limit, limit))


def _bound_job(job: Job) -> None:
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + job.cpu_s) + 1, hard))


def main() -> None:
    """Jobs on standard input, answers on standard output, until the input ends."""
    _bound(int(sys.argv[1]))
    os.umask(0o077)
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    decode = msgspec.json.Decoder(Job).decode
    for line in sys.stdin.buffer:
        job = decode(line)
        _bound_job(job)
        Image.MAX_IMAGE_PIXELS = job.max_pixels
        try:
            looked = look(job)
        except MemoryError:
            looked = Looked(refused="it takes too much memory")
        except OSError:
            looked = Looked(is_disk_full=True)
        sys.stdout.buffer.write(msgspec.json.encode(looked) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
