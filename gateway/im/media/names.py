"""Names of files as strangers give them, made harmless: no path, no control, nothing that turns the direction of
writing, and an end that says what the file is."""

from __future__ import annotations

import unicodedata

from gateway.model.im_media import EXTENSIONS

#: bytes of UTF-8
NAME_BYTES = 120
#: a longer one is not looked at further
_LOOK = 1_024
#: controls, formats (bidi overrides among them), surrogates, private use, not assigned, line and paragraph separators
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_FORBIDDEN = frozenset('<>:"|?*')
#: names that are devices on some systems
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(1, 10))})


def clean_name(name: str, mime: str) -> str:
    """Never empty; at most NAME_BYTES."""
    last = name[-_LOOK:].replace("\\", "/").rpartition("/")[2]
    seen = "".join(letter for letter in last if unicodedata.category(letter) not in _HIDDEN)
    kept = unicodedata.normalize("NFC", "".join("_" if letter in _FORBIDDEN else letter for letter in seen))
    kept = " ".join(kept.split()).strip(". ")
    ends = EXTENSIONS.get(mime, ("bin",))
    stem, dot, end = kept.rpartition(".")
    if not dot or end.lower() not in ends:
        stem, end = kept, ends[0]
    stem = stem.rstrip(". ") or "file"
    if stem.partition(".")[0].rstrip().lower() in _DEVICES:
        stem = f"_{stem}"
    room = NAME_BYTES - len(end.encode()) - 1
    stem = stem.encode()[:room].decode(errors="ignore").rstrip(". ") or "file"
    return f"{stem}.{end}"
