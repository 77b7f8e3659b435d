"""Which servers a user may name: nobody reaches the operator's own network through the gateway."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from gateway.model.im import Rejected, Transient
from gateway.model.public_addresses import is_public

#: look-ups under way at once: whoever runs a domain's name servers says how long one takes, and the process's own
#: threads have other work
LOOKUPS = 16
#: a look-up has to begin and end by then
LOOKUP_S = 20.0

_threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="im-names")


async def resolve(host: str, port: int, *, allows_private: bool) -> list[str]:
    """Addresses of a host, in the resolver's order: connect to one of these and to nothing else, or a second look-up
    could lead elsewhere. Rejected where it has one that is not public; Transient where there is no answer."""
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        async with asyncio.timeout(LOOKUP_S):
            found = await asyncio.get_running_loop().run_in_executor(_threads, look_up)
    except TimeoutError:
        raise Transient("the name of the server could not be looked up in time") from None
    except socket.gaierror as exc:
        if exc.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
            raise Rejected("there is no server of this name") from None
        raise Transient("the name of the server could not be looked up") from None
    except (OSError, UnicodeError):
        raise Rejected("this is no name of a server") from None
    addresses = list(dict.fromkeys(str(sockaddr[0]) for _, _, _, _, sockaddr in found))
    if not allows_private and not all(is_public(address) for address in addresses):
        raise Rejected("this server is not in the public internet (im.private_hosts)")
    return addresses
