"""`heliograph local`: a server of an operator that a person can try a pager with."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli import run
from gateway.cli.local import describe
from gateway.config.operator_sections import Wap
from gateway.paging.app_payload import AppPayload, build_payload
from gateway.paging.gsm7 import build_septets
from gateway.paging.segments import BINARY, GSM7, UCS2
from gateway.paging.sms.local import Submission
from gateway.paging.sms.pdu import (
    ESM_UDHI,
    NPI_E164,
    NPI_E212,
    TON_INTERNATIONAL,
    TON_UNKNOWN,
    Address,
    Bind,
    Command,
    ShortMessage,
    build_bind,
    build_message,
    build_pdu,
    parse_message,
)
from gateway.paging.ucs2 import build_units
from gateway.paging.udh import Concat, Header, Ports, build_header
from gateway.paging.wap.settings import build_ppg_settings

NUMBER = Address(TON_INTERNATIONAL, NPI_E164, "491511234567")
NOBODY = Address(TON_UNKNOWN, 0, "")


def text_message(text: str) -> ShortMessage:
    return ShortMessage(NOBODY, NUMBER, build_septets(text) or b"", data_coding=GSM7, registered_delivery=1)


def smsc(*options: str) -> contextlib.AbstractContextManager[tuple[subprocess.Popen[str], int]]:
    return serve("smsc", *options)


@contextlib.contextmanager
def serve(name: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process, and its port."""
    command = [sys.executable, "-m", "gateway.cli", "local", name, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = cast(IO[str], process.stdout).readline()
            found = re.match(rf"{name.upper()} at (?:http://)?127\.0\.0\.1:([0-9]+)", said)
            assert found is not None
            yield process, int(found[1])
        finally:
            process.kill()


def exchange(link: socket.socket, *pdus: bytes) -> tuple[int, int, bytes]:
    """Send, then read one PDU: its command, status and body."""
    for pdu in pdus:
        link.sendall(pdu)
    length, command, status, _ = struct.unpack(">4I", link.recv(16, socket.MSG_WAITALL))
    return command, status, link.recv(length - 16, socket.MSG_WAITALL) if length > 16 else b""


def test_a_message_is_printed_and_a_receipt_comes_and_ctrl_c_ends_it() -> None:
    with smsc("--system-id", "trial", "--password", "pw") as (process, port):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
            bind = build_pdu(Command.BIND_TRANSCEIVER, 1, build_bind(Bind("trial", "pw")))
            assert exchange(link, bind)[:2] == (Command.BIND_TRANSCEIVER | 0x80000000, 0)
            submit = build_pdu(Command.SUBMIT_SM, 2, build_message(text_message("Hello you")))
            assert exchange(link, submit)[:2] == (Command.SUBMIT_SM | 0x80000000, 0)
            command, _, body = exchange(link)
            assert command == Command.DELIVER_SM
            assert parse_message(body).is_receipt
            line = cast(IO[str], process.stdout).readline()
        assert '+491511234567, "Hello you"' in line
        process.send_signal(signal.SIGINT)
        rest, error = process.communicate(timeout=10)
        assert (process.returncode, rest) == (0, "")
        assert "paging.smscs=smpp://trial@127.0.0.1:" in error
        assert "Traceback" not in error


@pytest.mark.parametrize("name", ["smsc", "cards"])
def test_it_ends_without_a_word_while_a_gateway_is_bound(name: str, tmp_path: Path) -> None:
    options = ["--file", str(tmp_path / "cards.jsonl"), "--password", "secret"]
    with (
        serve(name, *options[:2] if name == "cards" else options[2:]) as (process, port),
        socket.create_connection(("127.0.0.1", port), timeout=10) as link,
    ):
        bind = build_pdu(Command.BIND_TRANSCEIVER, 1, build_bind(Bind("pushgw", "secret")))
        assert exchange(link, bind)[1] == 0
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "Traceback" not in error


def test_another_password_is_not_let_in() -> None:
    with smsc() as (_, port), socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        bind = build_pdu(Command.BIND_TRANSCEIVER, 1, build_bind(Bind("pushgw", "other")))
        assert exchange(link, bind)[1] != 0


@pytest.mark.parametrize("options", [["--password", "too-long-for-smpp"], ["--system-id", ""], ["--port", "70000"]])
def test_what_smpp_can_not_say_is_wrong_usage(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["local", "smsc", *options]) == 2
    assert options[0] in capsys.readouterr().err


@pytest.mark.parametrize("name", ["smsc", "ppg", "scef"])
def test_a_port_that_is_taken_is_said_so(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run(["local", name, "--port", str(taken.getsockname()[1])]) == 1
    assert "in use" in capsys.readouterr().err


def stop(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What is left to read once Ctrl-C has ended it."""
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "Traceback" not in rest[1]
    return rest


def test_a_device_trigger_is_printed_and_what_breaks_a_rule_is_said() -> None:
    with serve("scef", "--scs-as-id", "gw") as (process, port):
        url = f"http://127.0.0.1:{port}/3gpp-device-triggering/v1/gw/transactions"
        body = {
            "msisdn": "491511234567",
            "supportedFeatures": "0",
            "validityPeriod": 60,
            "priority": "NO_PRIORITY",
            "applicationPortId": 16_000,
            "triggerPayload": "AQI=",
            "notificationDestination": "http://127.0.0.1:9/reports",
        }
        assert httpx.post(url, json=body, trust_env=False).status_code == 201
        assert httpx.post(url, json={**body, "priority": "odd"}, trust_env=False).status_code == 400
        assert '"msisdn": "491511234567"' in cast(IO[str], process.stdout).readline()
        rest, error = stop(process)
    assert rest == ""
    assert "trigger.scs_as_id=gw" in error
    assert "breaks a rule" in error


def test_a_wap_push_needs_the_login_and_what_breaks_a_rule_is_said(tmp_path: Path) -> None:
    with serve("ppg", "--password", "pw") as (process, port):
        file = tmp_path / "password"
        file.write_text("pw")
        wap = Wap(ppg=f"http://127.0.0.1:{port}/wappush", ppg_user="pushgw", ppg_password_file=str(file))
        assert httpx.post(wap.ppg, content=b"x", trust_env=False).status_code == 401
        authorization = build_ppg_settings(wap).authorization  # type: ignore[union-attr]
        answer = httpx.post(wap.ppg, content=b"x", headers={"authorization": authorization}, trust_env=False)
        assert answer.status_code == 202
        assert 'code="2000"' in answer.text
        rest, error = stop(process)
    assert rest == ""
    assert "breaks a rule" in error


def shown(sm: ShortMessage) -> str:
    return describe(Submission(sm, "m1", 0.0))


def test_what_is_for_an_app_is_shown_as_the_app_gets_it() -> None:
    payload = build_payload(AppPayload(b"p" * 16, b"t" * 16, 1, title="Mail", text="from\nBob"), 133)
    header = build_header(Header(Ports(16_002, 16_002), Concat(7, 2, 1)))
    line = shown(
        ShortMessage(NOBODY, Address(0, NPI_E212, "001010123456789"), header + payload, ESM_UDHI, data_coding=BINARY)
    )
    for words in (
        "IMSI 001010123456789",
        "part 1 of 2",
        "port 16002",
        "push cHBw",
        "token dHR0",
        '"Mail", "from\\nBob"',
    ):
        assert words in line
    assert shown(ShortMessage(NOBODY, NUMBER, b"\x81abc", data_coding=BINARY)).endswith("4 bytes: 81616263")
    assert '"Grüße 🙂"' in shown(ShortMessage(NOBODY, NUMBER, build_units("Grüße 🙂"), data_coding=UCS2))


@given(st.binary(max_size=140), st.sampled_from([GSM7, BINARY, UCS2]), st.sampled_from([0, ESM_UDHI]))
def test_any_message_is_a_line(message: bytes, coding: int, esm_class: int) -> None:
    line = shown(ShortMessage(NOBODY, NUMBER, message, esm_class, data_coding=coding))
    assert line.startswith("m1")
    assert line.isprintable()
