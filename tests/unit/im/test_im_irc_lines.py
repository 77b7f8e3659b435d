"""Lines of IRC: whatever a server sends is a line or a LineError, and what we build is one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.im.connectors.irc.lines import (
    LineBuffer,
    LineError,
    build_line,
    fold,
    parse_ctcp,
    parse_line,
    split_text,
    strip_formats,
)


@pytest.mark.parametrize(
    ("data", "command", "parameters", "source"),
    [
        (b"PING :abc def", "PING", ("abc def",), ""),
        (b":n!u@h PRIVMSG #room :", "PRIVMSG", ("#room", ""), "n!u@h"),
        (b":irc.test 001 me :Hello", "001", ("me", "Hello"), "irc.test"),
        (b"@time=x;msgid=1\\:2 :n  privmsg  me  :a :b", "PRIVMSG", ("me", "a :b"), "n"),
        (b"JOIN #a,#b", "JOIN", ("#a,#b",), ""),
        (b"PRIVMSG me :gr\xfc\xdf", "PRIVMSG", ("me", "grüß"), ""),
    ],
)
def test_lines_as_servers_send_them(data: bytes, command: str, parameters: tuple[str, ...], source: str) -> None:
    line = parse_line(data)
    assert (line.command, line.parameters, line.source) == (command, parameters, source)


def test_tags_are_unescaped() -> None:
    assert parse_line(rb"@a=1\:2\s3\\;b;+c=\x :n PING x").tags == {"a": "1;2 3\\", "b": "", "+c": "x"}


@given(st.binary(max_size=600))
def test_whatever_comes_is_a_line_or_a_line_error(data: bytes) -> None:
    try:
        line = parse_line(data)
    except LineError:
        return
    assert line.command
    assert repr(line) == f"Line({line.command})"
    assert "\n" not in "".join(line.parameters)


@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(1, 50))
def test_lines_do_not_depend_on_how_they_are_cut(lines: list[bytes], size: int) -> None:
    data = b"".join(line.replace(b"\n", b"") + b"\r\n" for line in lines)
    whole = list(LineBuffer().take(data))
    buffer = LineBuffer()
    assert [line for at in range(0, len(data), size) for line in buffer.take(data[at : at + size])] == whole


def test_a_line_that_does_not_end_is_no_line() -> None:
    buffer = LineBuffer()
    assert list(buffer.take(b"x" * 8_000)) == []
    with pytest.raises(LineError):
        list(buffer.take(b"x" * 1_000))


@given(st.text(max_size=40), st.lists(st.text(max_size=40), max_size=4))
def test_what_we_build_is_one_line_that_parses_to_the_same(command: str, parameters: list[str]) -> None:
    try:
        data = build_line(command, *parameters)
    except LineError:
        return
    assert data.endswith(b"\r\n")
    assert data.count(b"\n") == 1
    try:
        line = parse_line(data[:-2])
    except LineError:
        return
    if command.isascii() and not command.startswith("@"):
        assert line.parameters == tuple(parameters)


@given(st.text(max_size=400), st.integers(4, 80))
def test_texts_are_cut_between_characters(text: str, most: int) -> None:
    pieces = split_text(text, most)
    assert all(0 < len(piece.encode("utf-8", "replace")) <= most for piece in pieces)
    joined = "".join(char for char in text if char not in "\r\n\0").encode("utf-8", "replace").decode()
    assert "".join(pieces) == joined


@given(st.text(max_size=100))
def test_formats_and_queries_of_any_text(text: str) -> None:
    assert not set(strip_formats(text)) & set("\x02\x03\x04\x0f\x11\x16\x1d\x1e\x1f")
    parse_ctcp(text)
    assert fold(fold(text)) == fold(text)
