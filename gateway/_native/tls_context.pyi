from typing import Final, final

#: client_auth
CLIENT_AUTH: Final[tuple[str, ...]]

@final
class TlsContext:
    """What new handshakes are made with. Any number of reactors may share it: a ticket of one is taken by the
    others."""
    def __init__(
        self,
        chain: bytes,
        key: bytes,
        *,
        names: list[tuple[str, bytes, bytes]] | None = None,
        client_ca: bytes = b"",
        client_auth: str = "none",
        min_version: str = "1.2",
    ) -> None:
        """PEM bytes: `chain` is the certificate and those that lead to its root; `names` further (host, chain, key),
        a host may begin with `*.`. ValueError says what OpenSSL does not take."""
