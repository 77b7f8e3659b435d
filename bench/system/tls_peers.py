"""What a TLS connection costs elsewhere: `python -m bench.system.tls_peers uvloop|accept CERT KEY` is such a server.

uvloop: an echo server of uvloop with TLS, the usual way in Python. accept: a bare loop over OpenSSL's accept, which
answers what comes with one byte string. The first line it prints is its port.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from typing import cast

import uvloop

#: nobody looks into it
ANSWER = b"\x02\x00"


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def data_received(self, _data: bytes) -> None:
        self.transport.write(ANSWER)


async def serve_uvloop(context: ssl.SSLContext) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, ssl=context, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def serve_accept(context: ssl.SSLContext) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    kept = []
    while True:
        raw, _ = listener.accept()
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock = context.wrap_socket(raw, server_side=True)
        sock.recv(4096)
        sock.sendall(ANSWER)
        kept.append(sock)


def main() -> None:
    kind, cert, key = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if kind == "uvloop":
        uvloop.run(serve_uvloop(context))
    else:
        serve_accept(context)


if __name__ == "__main__":
    main()
