"""The Python codec of device frames, and docs/frames.md: its tables and its bytes are checked against the code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect as mi

from gateway.model import frames
from gateway.model.errors import ERRORS, FrameTooLarge, GatewayError, InvalidField, MalformedFrame
from gateway.model.frames import (
    FRAME_BYTES,
    MAX_IDS,
    FrameReader,
    FrameType,
    Notify,
    build_frame,
    build_varint,
    parse_body,
    parse_ids,
    parse_push,
)

PAGE = (Path(__file__).parents[2] / "docs" / "frames.md").read_text()
BODIES = {kind: getattr(frames, kind.name.title(), None) for kind in FrameType}


# --- the codec --------------------------------------------------------------------------------------------------------

FRAMES = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=12)


def pack(parts: list[tuple[int, bytes]]) -> bytes:
    return b"".join(bytes((kind,)) + build_varint(len(body)) + body for kind, body in parts)


@given(FRAMES, st.lists(st.integers(0, 4000), max_size=20))
def test_any_split_gives_the_same_frames(parts, cuts):
    stream = pack(parts)
    points = [0, *sorted(min(c, len(stream)) for c in cuts), len(stream)]
    reader = FrameReader()
    out = [frame for a, b in pairwise(points) for frame in reader.feed(stream[a:b])]
    assert out == parts
    assert len(reader) == 0


@given(st.binary(max_size=80))
def test_a_byte_at_a_time_is_the_same_as_all_at_once_also_for_garbage(data):
    def run(pieces: list[bytes]) -> tuple[list[tuple[int, bytes]], str]:
        reader = FrameReader(40)
        out: list[tuple[int, bytes]] = []
        try:
            for piece in pieces:
                reader.append(piece)
                while (frame := reader.take()) is not None:
                    out.append(frame)
        except GatewayError as exc:
            return out, exc.name
        return out, ""

    assert run([data]) == run([data[i : i + 1] for i in range(len(data))])


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (b"\xff\xff\xff\xff", MalformedFrame),
        (b"\x80\x80\x80\x80\x00", MalformedFrame),
        (b"\x81\x80\x04", FrameTooLarge),
    ],
)
def test_a_bad_length_is_refused_without_waiting_for_the_body(length, expected):
    with pytest.raises(expected):
        FrameReader().feed(b"\x08" + length)


def test_the_longest_body_is_taken_and_one_byte_more_is_not():
    whole = b"\x08" + build_varint(FRAME_BYTES) + b"x" * FRAME_BYTES
    assert FrameReader().feed(whole) == [(8, b"x" * FRAME_BYTES)]
    with pytest.raises(FrameTooLarge):
        FrameReader().feed(b"\x08" + build_varint(FRAME_BYTES + 1))


def test_frames_before_a_bad_one_come_out_of_take():
    reader = FrameReader()
    reader.append(b"\x01\x00\x08\xff\xff\xff\xff")
    assert reader.take() == (1, b"")
    with pytest.raises(MalformedFrame):
        reader.take()


@given(st.integers(0, 2**28 - 1))
def test_varint_round_trip(n):
    reader = FrameReader(2**28)
    reader.append(b"\x08" + build_varint(n))
    expected = (8, b"") if n == 0 else None
    assert reader.take() == expected
    assert 1 <= len(build_varint(n)) <= 4


def test_a_body_past_28_bits_can_not_be_built():
    with pytest.raises(FrameTooLarge):
        build_varint(2**28)


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (frames.Hello, {}, ""),
        (frames.Hello, {"v": "1"}, "v"),
        (frames.Hello, {"v": 1, "window": 65_536}, "window"),
        (frames.Hello, {"v": 1, "urgency": 4}, "urgency"),
        (frames.Register, {"req": -1, "app": "a", "version": "1"}, "req"),
        (frames.Register, {"req": 1, "app": "", "version": "1"}, "app"),
        (frames.Register, {"req": 1, "app": "a", "version": "1", "tags": ["t" * 65]}, "tags[0]"),
        (frames.Fetch, {"req": 1, "token": "t", "ids": [1] * 1025}, "ids"),
        (frames.State, {"heartbeat": 86_401}, "heartbeat"),
        (frames.State, {"urgency": -2}, "urgency"),
        (Notify, {"id": -1}, "id"),
    ],
)
def test_a_bad_field_is_named(kind, body, field):
    with pytest.raises(InvalidField) as caught:
        parse_body(msgspec.msgpack.encode(body), kind)
    assert caught.value.field == field


def test_unknown_keys_are_ignored():
    hello = parse_body(msgspec.msgpack.encode({"v": 1, "later": {"x": [1]}, "app": None}), frames.Hello)
    assert hello == frames.Hello(v=1)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x81", b"\x91" * 5000, b"\x81\xa1\xff\x01", b"\x80\x80"])
def test_no_msgpack_is_malformed(body):
    with pytest.raises(GatewayError) as caught:
        parse_body(body, frames.Hello)
    assert type(caught.value) in (MalformedFrame, InvalidField)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_ids_round_trip(ids):
    ((kind, body),) = FrameReader().feed(build_frame(FrameType.ACK, ids))
    assert (kind, parse_ids(body)) == (FrameType.ACK, ids)


@pytest.mark.parametrize("body", [[-1], ["1"], {"1": 1}, 7, [0] * (MAX_IDS + 1)])
def test_bad_ids_are_malformed(body):
    with pytest.raises(MalformedFrame):
        parse_ids(msgspec.msgpack.encode(body))


VALUES = st.integers(0, 2**64 - 1) | st.text(max_size=9)
PUSHES = st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=3), max_size=5)


@given(st.integers(0, 0xFFFFFFFF), PUSHES, st.booleans(), st.booleans())
def test_a_push_is_cut_as_it_would_be_parsed(req: int, pushes: list[Any], is_turned: bool, has_more: bool) -> None:
    fields: list[tuple[str, Any]] = [("req", req), ("pushes", pushes)]
    body = msgspec.msgpack.encode(dict(([*fields, ("more", 1)] if has_more else fields)[:: -1 if is_turned else 1]))
    parsed = parse_body(body, frames.Push)
    assert [parsed.req, bytes(parsed.pushes)] == [(cut := parse_push(body))[0], bytes(cut[1])]


@given(st.binary(max_size=40) | st.binary(max_size=12).map(lambda rest: b"\x82\xa3req" + rest))
def test_what_is_no_push_is_refused_or_left_to_who_reads_the_array(body: bytes) -> None:
    def read(how: Callable[[], Any]) -> Any:
        try:
            return how()
        except GatewayError as error:
            return type(error)

    parsed = read(lambda: parse_body(body, frames.Push))
    cut = read(lambda: parse_push(body))
    if isinstance(parsed, frames.Push):
        assert cut == (parsed.req, bytes(parsed.pushes))
    elif isinstance(cut, tuple):
        assert 0 <= cut[0] <= 0xFFFFFFFF
        assert body.endswith(b"\xa6pushes" + bytes(cut[1]))
    else:
        assert cut is parsed


def test_an_empty_message_body_is_left_out_however_it_was_made():
    plain = build_frame(FrameType.NOTIFY, Notify(id=1))
    assert build_frame(FrameType.NOTIFY, Notify(id=1, data=msgspec.Raw(b""))) == plain
    parsed = parse_body(plain[2:], Notify)
    assert build_frame(FrameType.NOTIFY, parsed) == plain
    assert not parsed.data


# --- the page ---------------------------------------------------------------------------------------------------------


def parse_example(text: str) -> tuple[FrameType, Any]:
    """`NAME {json with h'hex' for bytes}`; `data` holds any value."""
    name, _, value = text.partition(" ")
    kind = FrameType[name]
    if not value:
        return kind, None
    parsed = json.loads(re.sub(r"h'([0-9a-f]*)'", r'"\\u0000\1"', value))
    if isinstance(parsed, list):
        return kind, parsed
    for key, item in parsed.items():
        if isinstance(item, str) and item.startswith("\0"):
            parsed[key] = bytes.fromhex(item[1:])
        if key in ("data", "pushes", "results", "receipts"):
            parsed[key] = msgspec.Raw(msgspec.msgpack.encode(item))
    body = BODIES[kind]
    assert body is not None
    return kind, body(**parsed)


def examples() -> list[tuple[str, str]]:
    found = []
    for block in re.findall(r"```frame\n(.*?)```", PAGE, re.DOTALL):
        lines = block.strip().split("\n")
        hexes = [i for i, line in enumerate(lines) if re.fullmatch(r"([0-9a-f]{2} ?)+", line.strip())]
        found.append(("".join(lines[: hexes[0]]), " ".join(lines[i].strip() for i in hexes)))
    return found


@pytest.mark.parametrize(("text", "hexes"), examples(), ids=lambda v: v[:20])
def test_every_example_of_the_page_is_what_the_codec_builds(text, hexes):
    kind, body = parse_example(text)
    built = build_frame(kind, body)
    assert built.hex(" ") == hexes
    ((parsed_kind, raw),) = FrameReader().feed(built)
    assert parsed_kind == kind
    if isinstance(body, list):
        assert parse_ids(raw) == body
    elif body is not None:
        assert build_frame(kind, parse_body(raw, type(body))) == built


def test_the_page_has_an_example_of_every_frame():
    assert {text.partition(" ")[0] for text, _ in examples()} == {kind.name for kind in FrameType}


def describe(kind: mi.Type) -> str:
    """Type and bounds as the page's tables have them."""

    def span(low: int | None, high: int | None) -> str:
        if high is None:
            return f" ≥ {low}" if low is not None else ""
        return f" {low}…{high}" if low is not None else f" ≤ {high}"

    match kind:
        case mi.IntType(ge=low, le=high):
            return "int" + span(low, high)
        case mi.StrType(min_length=low, max_length=high):
            return "str" + span(low, high)
        case mi.BytesType(max_length=high):
            return "bin" + span(None, high)
        case mi.BoolType():
            return "bool"
        case mi.ListType(item_type=item, max_length=high):
            return f"array{span(None, high)} of {describe(item)}"
        case mi.DictType(key_type=key, value_type=value, max_length=high):
            return f"map{span(None, high)} of {describe(key)} → {describe(value)}"
        case mi.UnionType(types=types):
            return " or ".join("nil" if isinstance(t, mi.NoneType) else describe(t) for t in types)
        case mi.RawType():
            return "any"
    raise AssertionError(kind)


def fields_of(body: type) -> list[tuple[str, str, str]]:
    info = mi.type_info(body)
    assert isinstance(info, mi.StructType)
    rows = []
    for field in info.fields:
        default = "required" if field.required else field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if isinstance(default, msgspec.Raw):
            default = "absent"
        elif default is None:
            default = "nil"
        elif isinstance(default, bool):
            default = str(default).lower()
        elif default in ("", b""):
            default = "empty"
        elif default == []:
            default = "[]"
        rows.append((field.encode_name, describe(field.type), str(default)))
    return rows


def section(name: str) -> str:
    found = re.search(rf"^### {name} .*?(?=^##)", PAGE + "\n##", re.DOTALL | re.MULTILINE)
    assert found, f"docs/frames.md has no section '### {name} …'"
    return found.group()


@pytest.mark.parametrize("kind", [kind for kind in FrameType if BODIES[kind] is not None], ids=lambda k: k.name)
def test_every_field_of_the_page_has_the_code_s_type_bounds_and_default(kind):
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", section(kind.name), re.MULTILINE)
    assert [tuple(cell.strip() for cell in row) for row in rows] == fields_of(BODIES[kind])


def test_the_fields_of_a_providers_welcome_are_on_the_page():
    table = PAGE.partition("WELCOME of a provider:")[2].partition("###")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", table, re.MULTILINE)
    wanted = [(name, kind.partition(" ")[0], default) for name, kind, default in fields_of(frames.ProviderWelcome)]
    assert [tuple(cell.strip() for cell in row) for row in rows] == wanted


def test_every_frame_type_of_the_page_has_the_code_s_number():
    rows = re.findall(r"^\| 0x([0-9a-f]{2}) \| ([A-Z]+) \|", PAGE, re.MULTILINE)
    assert [(int(number, 16), name) for number, name in rows] == [(kind.value, kind.name) for kind in FrameType]


def test_every_error_of_the_page_is_what_the_table_of_errors_says():
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (yes|no) \| (yes|no) \| ([\d ]+) \|", PAGE, re.MULTILINE)
    assert len(rows) >= 18
    for code, name, closes, retry, after in rows:
        error = ERRORS[int(code)]
        assert (error.name, error.fatal, error.retryable) == (name, closes == "yes", retry == "yes")
        assert error.after_ms == int(after.replace(" ", ""))
    fatal = {code for code, error in ERRORS.items() if error.fatal}
    assert fatal <= {int(row[0]) for row in rows}


@pytest.mark.parametrize("field", ["version", "os"])
def test_what_makes_up_a_cohort_has_no_control_characters(field: str) -> None:
    body = {"req": 1, "app": "shop", "version": "1.0", field: "1\x1f2\x1f3\x1f4\x1f5\x1f6"}
    with pytest.raises(InvalidField):
        parse_body(msgspec.msgpack.encode(body), frames.Register)
