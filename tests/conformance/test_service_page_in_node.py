"""docs/service-pages.md is enough: a terminal written from that page alone reads a service page, and what its app would
say is taken by the gateway's own check (C13)."""

from __future__ import annotations

import json
import shutil
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.model.service_access import is_proved, parse_access
from gateway.model.service_page import MOST_PARAMS, ServicePage, build_page, hash_aid, hash_id

NODE = shutil.which("node") or shutil.which("nodejs")
KEY, TOKEN, TICKET = bytes(range(32)), b"t" * 16, bytes(range(100, 116))

pytestmark = pytest.mark.skipif(NODE is None, reason="NOT TESTED: apt install nodejs")


def read(page: bytes, aid: str, *, key: bytes = KEY, token: bytes = TOKEN) -> dict[str, Any]:
    assert NODE is not None
    given = {name: b64encode(value).decode() for name, value in (("key", key), ("page", page), ("token", token))}
    script = Path(__file__).with_name("service_page.mjs")
    done = subprocess.run(
        [NODE, str(script)],
        input=json.dumps(given | {"aid": aid}).encode(),
        capture_output=True,
        check=True,
        timeout=30,
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("aid", "server", "params"),
    [("com.example.chat", 1, b"table=7"), ("", 0, b""), ("täglich", 7, bytes(range(MOST_PARAMS)))],
)
def test_it_reads_what_was_built_and_its_request_is_proved(aid: str, server: int, params: bytes) -> None:
    page = ServicePage(hash_aid(aid, KEY), hash_id(TOKEN), TICKET, 1_800_000_000, 2**53 + 1, server, params)
    said = read(build_page(page, KEY), aid)
    assert (said["expires"], said["counter"]) == (1_800_000_000, str(2**53 + 1))
    request = parse_access(msgspec.json.encode(said["request"]))
    assert is_proved(request, KEY)
    assert (request.server, request.aid) == (server, aid)


def test_it_refuses_what_the_gateway_did_not_sign_or_is_for_another() -> None:
    page = build_page(ServicePage(hash_aid("a", KEY), hash_id(TOKEN), TICKET, 1, 1), KEY)
    assert read(page, "b") == {"refused": "aid"}
    assert read(page, "a", token=b"u" * 16) == {"refused": "id"}
    assert read(page, "a", key=bytes(32)) == {"refused": "forged"}
    assert read(page + b"\0", "a") == {"refused": "length"}
