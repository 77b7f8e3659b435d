"""A client of TLS 1.3 whose records are made by hand once Python's ssl has done the handshake."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

from gateway._native.records import Records

SUITES = {
    "TLS_AES_128_GCM_SHA256": 0x1301,
    "TLS_AES_256_GCM_SHA384": 0x1302,
    "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
}
ALERT, HANDSHAKE, DATA = 21, 22, 23


class RecordClient:
    """`out` seals what it sends; `receive` gives (content type, content) of the next record."""

    def __init__(self, port: int, context: ssl.SSLContext, folder: Path, *, receive_buffer: int = 0) -> None:
        log = folder / "keys.log"
        log.unlink(missing_ok=True)
        context.keylog_filename = str(log)
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(10)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.sock.sendall(outgoing.read())
                incoming.write(self.sock.recv(65536))
        self.finished = outgoing.read()
        secrets = dict(line.split(" ")[0::2] for line in log.read_text().splitlines() if line[0] != "#")
        cipher: Any = client.cipher()
        suite = SUITES[cipher[0]]
        self.out = Records(suite, bytes.fromhex(secrets["CLIENT_TRAFFIC_SECRET_0"]))
        self.incoming = Records(suite, bytes.fromhex(secrets["SERVER_TRAFFIC_SECRET_0"]))
        self._bytes = b""

    def finish(self, behind: bytes = b"") -> None:
        """The last message of the handshake, and what is to come in the same segment; then the ticket is read."""
        self.sock.sendall(self.finished + behind)
        kind, ticket = self.receive()
        assert (kind, ticket[0]) == (HANDSHAKE, 4)

    def _take(self, n: int) -> bytes:
        while len(self._bytes) < n:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self._bytes += data
        taken, self._bytes = self._bytes[:n], self._bytes[n:]
        return taken

    def receive(self) -> tuple[int, bytes]:
        head = self._take(5)
        return self.incoming.open(head + self._take(int.from_bytes(head[3:], "big")))

    def send(self, content: bytes, kind: int = DATA) -> None:
        self.sock.sendall(self.out.seal(kind, content))

    def close(self) -> None:
        self.sock.close()
