from collections.abc import Sequence
from typing import Final

#: kinds of headers, and why one was refused, by number
PROXY_KINDS: Final[tuple[str, ...]]
PROXY_FAILURES: Final[tuple[str, ...]]
HEADER_BYTES_MAX: Final[int]

def parse(data: bytes) -> tuple[int, str, bytes, int]:
    """(bytes of the header, kind, client address, client port), or (0, "", b"", 0) where more must come; the address
    has 16 bytes. ValueError names one of PROXY_FAILURES. For tests: reactors use the C function."""

def is_trusted(address: bytes, networks: Sequence[tuple[bytes, int]]) -> bool:
    """Is the address (16 bytes) in one of these (16 bytes, bits)? For tests."""
