"""Which servers a user may name for a connector."""

import pytest

from gateway.im.connectors.hosts import resolve
from gateway.model.im import Rejected


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.1.2.3", "169.254.169.254", "::ffff:127.0.0.1", "0.0.0.0"])
async def test_servers_in_the_operators_own_network_are_refused(host: str) -> None:
    with pytest.raises(Rejected, match="public internet"):
        await resolve(host, 443, allows_private=False)


async def test_they_are_found_where_the_operator_allows_it() -> None:
    assert await resolve("127.0.0.1", 443, allows_private=True) == ["127.0.0.1"]


@pytest.mark.parametrize("host", ["no such name", "", "a" * 70 + ".example", "x\x00y"])
async def test_what_is_no_name_is_rejected(host: str) -> None:
    with pytest.raises(Rejected):
        await resolve(host, 443, allows_private=False)
