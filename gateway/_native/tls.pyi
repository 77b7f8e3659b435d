from typing import Final

#: why a handshake or a connection failed, by number
TLS_FAILURES: Final[tuple[str, ...]]
