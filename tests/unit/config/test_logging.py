"""Logs: one line an event, every logger through one handler, and nothing that tells who or a secret."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from gateway.config.logging import REDACTED, is_hidden, path_shape, setup_logging
from gateway.config.sections import Log

TELLING = """
token tokens device device_id deviceId api_key apikeys_key secret receipts_secret account alias aliases address
addresses peer remote_addr Authorization jwt client_ip password X-Auth-Token imsi webhook_url card iccid kic kid apdus
"""
HARMLESS = """
event token_count device_port key_file app seq reason links monkey tokenizer accounting max_bytes tags device_limit n
cards_total key_kind
"""


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for name in ("uvicorn.error", "uvicorn.access"):  # a provider door started earlier may have made them quiet
        logging.getLogger(name).setLevel(logging.NOTSET)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("name", TELLING.split())
def test_telling_names_are_hidden(name: str) -> None:
    assert is_hidden(name)


@pytest.mark.parametrize("name", HARMLESS.split())
def test_other_names_and_figures_are_not(name: str) -> None:
    assert not is_hidden(name)


def test_values_of_telling_fields_never_reach_the_stream_however_deep(stream: io.StringIO) -> None:
    setup_logging(Log(), stream)
    structlog.get_logger("gateway.edge").info(
        "login",
        device="SENSITIVE",
        nested={"account": "SENSITIVE", "list": [{"apiKey": "SENSITIVE"}], "n": 1},
        raw=b"SENSITIVE",
        header="Authorization: Bearer SENSITIVE.x-y",
        app="shop",
    )
    assert "SENSITIVE" not in stream.getvalue()
    (line,) = lines(stream)
    assert line["device"] == REDACTED
    assert line["nested"] == {"account": REDACTED, "list": [{"apiKey": REDACTED}], "n": 1}
    assert line["raw"] == "<9 bytes>"
    assert (line["event"], line["app"], line["logger"], line["level"]) == ("login", "shop", "gateway.edge", "info")


def test_api_keys_inside_any_text_are_hidden(stream: io.StringIO) -> None:
    setup_logging(Log(), stream)
    key = "hk_abcdefgh_" + "s" * 43
    logging.getLogger("x").warning("bad key %s", key)
    assert "s" * 43 not in stream.getvalue()
    assert "hk_abcdefgh_" in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_traceback_shows_no_local_variables_and_no_credentials(stream: io.StringIO, form) -> None:
    setup_logging(Log(format=form), stream)
    token = "SENSITIVE"  # noqa: F841
    try:
        raise ValueError("Bearer SENSITIVE2")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "ValueError" in stream.getvalue()
    assert "SENSITIVE" not in stream.getvalue()


def test_an_object_shows_its_type_alone(stream: io.StringIO) -> None:
    class Session:
        def __str__(self) -> str:
            return "SENSITIVE"

        __repr__ = __str__

    setup_logging(Log(), stream)
    structlog.get_logger().info("x", session=Session())
    assert lines(stream)[0]["session"] == "<Session>"


def test_library_loggers_go_the_same_way(stream: io.StringIO) -> None:
    child = logging.getLogger("uvicorn.error")
    child.addHandler(logging.StreamHandler(io.StringIO()))
    child.propagate = False
    setup_logging(Log(), stream)
    child.info("Started %d", 7, extra={"color_message": "x"})
    logging.getLogger("asyncio").error("slow")
    assert [(line["logger"], line["event"]) for line in lines(stream)] == [
        ("uvicorn.error", "Started 7"),
        ("asyncio", "slow"),
    ]
    assert "color_message" not in lines(stream)[0]


def test_an_access_line_keeps_no_caller_and_no_id(stream: io.StringIO) -> None:
    setup_logging(Log(), stream)
    args = ("10.1.2.3:999", "GET", "/v1/registrations/SENSITIVE?k=SENSITIVE", "1.1", 200)
    logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', *args)
    assert "SENSITIVE" not in stream.getvalue()
    assert "10.1.2.3" not in stream.getvalue()
    (line,) = lines(stream)
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/registrations/*", 200)


def test_a_path_keeps_only_known_words() -> None:
    assert path_shape("/v1/apps/shop/keys/k1") == "/v1/apps/*/keys/*"
    assert path_shape("/healthz") == "/healthz"


def test_the_level_holds_for_both_kinds_of_loggers(stream: io.StringIO) -> None:
    setup_logging(Log(level="warning"), stream)
    structlog.get_logger().info("quiet")
    logging.getLogger("x").info("quiet")
    structlog.get_logger().warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_setting_up_twice_writes_once(stream: io.StringIO) -> None:
    setup_logging(Log(), io.StringIO())
    setup_logging(Log(), stream)
    structlog.get_logger().info("x")
    assert len(lines(stream)) == 1


def test_text_format_is_plain(stream: io.StringIO) -> None:
    setup_logging(Log(format="text"), stream)
    structlog.get_logger("gateway").info("hello", n=1)
    assert "hello" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
