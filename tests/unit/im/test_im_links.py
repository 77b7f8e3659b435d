"""Files out: signed links, ranges, headers that keep a browser from running them; nothing is listed, nothing is told of
what is another's."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_rig import BASE, BEN, Clock, door_routes, eventually, media_rig, picture
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.api.im.served import Unsatisfiable, build_disposition, parse_range
from gateway.api.openapi import build_document
from gateway.im.media.links import Links
from gateway.metrics import Metric

TEXT = bytes(range(48, 58)) * 60_000


def path_of(link: str) -> str:
    assert link.startswith(f"{BASE}/m/")
    return link.removeprefix(BASE)


async def test_whoever_has_a_link_gets_the_file_as_an_attachment(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        media = await rig.take(TEXT, 'übung "1";\u202egnp.exe')
        file = rig.library.file(b"a" * 16, media.ref)
        assert file is not None
        del client.headers["authorization"]
        answer = await client.get(path_of(file.link))
        assert answer.status_code == 200
        assert answer.content == TEXT
        headers = answer.headers
        assert headers["content-type"] == "text/plain; charset=utf-8"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("sandbox")
        assert headers["content-disposition"].startswith("attachment; filename=")
        assert "%C3%BCbung" in headers["content-disposition"]
        assert "\u202e" not in media.name
        assert headers["etag"] == f'"{media.sha256}"'
        assert "private" in headers["cache-control"]
        head = await client.head(path_of(file.link))
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(TEXT)))
        same = await client.get(path_of(file.link), headers={"if-none-match": f'W/"x", {headers["etag"]}'})
        assert (same.status_code, same.content) == (304, b"")


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=599990-", 206, slice(599_990, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=10-99999999", 206, slice(10, None)),
        ("bytes=300000-599999", 206, slice(300_000, None)),
        ("bytes=600000-", 416, slice(0, 0)),
        ("bytes=-0", 416, slice(0, 0)),
        ("bytes=0-1,5-6", 200, slice(None)),
        ("bytes=9-1", 200, slice(None)),
        ("pages=1-2", 200, slice(None)),
        ("bytes=a-b", 200, slice(None)),
    ],
)
async def test_a_range_is_answered(tmp_path: Path, asked: str, status: int, part: slice) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        media = await rig.take(TEXT)
        answer = await client.get(f"/v1/im/media/{media.ref}", headers={"range": asked})
        assert (answer.status_code, answer.content) == (status, TEXT[part])
        if status == 416:
            assert answer.headers["content-range"] == "bytes */600000"
        other = await client.get(f"/v1/im/media/{media.ref}", headers={"range": asked, "if-range": '"other"'})
        assert (other.status_code, other.content) == (200, TEXT)


async def test_links_end_and_can_not_be_made_up(tmp_path: Path) -> None:
    clock = Clock()
    async with media_rig(tmp_path, clock, link_s=600) as rig, rig.door() as client:
        media = await rig.take(b"some text")
        file = rig.library.file(b"a" * 16, media.ref)
        assert file is not None
        path = path_of(file.link)
        token = path.removeprefix("/m/")
        for wrong in (token[:-1], token + "A", token[:-1] + ("A" if token[-1] != "A" else "B"), "A" * len(token), "x"):
            assert (await client.get(f"/m/{wrong}")).status_code == 404
        assert (await client.get("/m/")).status_code == 404
        clock.now_ms += 599_000
        assert (await client.get(path)).status_code == 200
        clock.now_ms += 90_000
        assert (await client.get(path)).status_code == 404
        assert rig.counted(Metric.IM_MEDIA_SERVED, "link none") == 6


async def test_only_who_may_have_it_gets_it_by_name(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client, rig.door(BEN) as other:
        media = await rig.take(picture("PNG"))
        url = f"/v1/im/media/{media.ref}"
        assert (await client.get(url)).headers["content-type"] == "image/png"
        refused = await other.get(url)
        unknown = await other.get("/v1/im/media/media_" + "0" * 32)
        assert (refused.status_code, unknown.status_code) == (404, 404)
        assert refused.json() == unknown.json()
        assert (await other.get("/v1/im/media/..%2f..%2fdata.mdb")).status_code == 404
        assert (await client.get(url, headers={"authorization": ""})).status_code == 401
        rig.library.share(media.ref, BEN)
        assert (await other.get(url)).status_code == 200


async def test_a_file_somebody_took_away_is_not_found(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig, rig.door() as client:
        media = await rig.take(b"some text")
        rig.stored()[0].unlink()
        assert (await client.get(f"/v1/im/media/{media.ref}")).status_code == 404
        assert rig.counted(Metric.IM_MEDIA_SERVED, "user lost") == 1
        await eventually(lambda: rig.parts() == [])


async def test_the_description_of_these_routes_is_valid(tmp_path: Path) -> None:
    async with media_rig(tmp_path) as rig:
        routes = door_routes(rig.library, rig.uploads, rig.config, rig.metrics)
        document = msgspec.to_builtins(build_document(routes))
        OpenAPIV31SpecValidator(document).validate()
        assert set(document["paths"]["/v1/im/uploads/{id}"]) == {"head", "patch", "delete", "post", "get"}


KEY = b"k" * 32


@given(st.binary(min_size=16, max_size=16), st.integers(1, 31_536_000), st.integers(0, 1 << 41))
def test_a_link_says_what_was_put_into_it(ref: bytes, link_s: int, now_ms: int) -> None:
    links = Links(KEY, lambda: "", link_s, lambda: now_ms)
    token = links.build(ref).removeprefix("/m/")
    found = links.parse(token)
    assert found is not None
    assert found[0] == ref
    assert link_s <= found[1] <= link_s + max(1, link_s // 8)
    assert Links(b"other" * 8, lambda: "", link_s, lambda: now_ms).parse(token) is None


@given(st.text(max_size=80) | st.text("ABCabc012-_=", min_size=48, max_size=52))
def test_no_text_is_a_link_by_chance(token: str) -> None:
    assert Links(KEY, lambda: "", 60, lambda: 0).parse(token) is None


@given(st.data())
def test_a_changed_link_is_worth_nothing(data: st.DataObject) -> None:
    links = Links(KEY, lambda: "", 60, lambda: 0)
    token = links.build(b"r" * 16).removeprefix("/m/")
    at = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.characters(codec="utf-8").filter(lambda letter: letter != token[at]))
    assert links.parse(token[:at] + letter + token[at + 1 :]) is None


@given(st.text(max_size=30) | st.from_regex(r"bytes=[0-9]{0,6}-[0-9]{0,6}", fullmatch=True), st.integers(0, 10_000))
def test_a_range_lies_in_the_file(text: str, size: int) -> None:
    try:
        found = parse_range(text, size)
    except Unsatisfiable:
        return
    assert found is None or 0 <= found[0] < found[1] <= size


@given(st.text(max_size=200))
def test_a_disposition_is_one_line_of_ascii(name: str) -> None:
    text = build_disposition(name.encode("utf-8", "ignore").decode())
    assert text.isascii()
    assert text.isprintable()
    assert text.count('"') == 2
