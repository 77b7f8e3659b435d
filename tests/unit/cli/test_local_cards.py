"""`heliograph local cards`: cards that a person can try a gateway with."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

import pytest
from sms_scene import QUICK, until

from gateway.cli import run
from gateway.cli.local_cards import parse_share
from gateway.config.paging import Smsc
from gateway.config.sections import Config
from gateway.metrics import Metrics
from gateway.model.errors import ConfigError
from gateway.ota.check_request import parse_check_request
from gateway.paging.sms.bearer import SmsBearer
from gateway.paging.sms.pdu import Command, ShortMessage, build_pdu


async def test_cards_that_are_moved_ask_to_be_checked(tmp_path: Path) -> None:
    file = tmp_path / "cards.jsonl"
    command = [sys.executable, "-m", "gateway.cli", "local", "cards", "--port", "0", "--file", str(file)]
    options = ["--count", "5", "--incapable", "20%", "--failing", "60%", "--algorithm", "3des2"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = cast(IO[str], process.stdout).readline()
            found = re.match(r"CARDS at 127\.0\.0\.1:([0-9]+), 5 of 5 terminals on", said)
            assert found is not None
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            assert [line["key_sets"][0]["algorithm"] for line in lines] == ["3des2"] * 5
            messages: list[ShortMessage] = []
            smsc = Smsc("smsc", "127.0.0.1", int(found[1]), False, "pushgw", "", "secret")
            bearer = SmsBearer(
                Config().paging,
                [replace(QUICK, smsc=smsc)],
                metrics=Metrics(process=False),
                on_incoming=messages.append,
            )
            bearer.start()
            await until(lambda: bearer.links[0].is_bound)
            assert messages == []
            process.send_signal(signal.SIGUSR1)
            await until(lambda: len(messages) == 5)
            iccids = {parse_check_request(message.message).iccid for message in messages}
            assert iccids == {line["iccid"] for line in lines}
            await bearer.close()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
            assert process.returncode == 0
            assert out.splitlines()[0].startswith("card 0: check request")
            assert "5 from cards" in err
            # a share is drawn for each, so what came of it is said
            assert re.search(r"^[0-5] terminals know no channels, [0-5] open none$", err, re.M)
            for line in lines:
                assert line["key_sets"][0]["kic"] not in out + err
        finally:
            process.kill()


def test_it_ends_quietly_while_a_gateway_is_connected(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway.cli", "local", "cards", "--port", "0", "--count", "1"]
    command += ["--file", str(tmp_path / "cards.jsonl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            found = re.match(r"CARDS at 127\.0\.0\.1:([0-9]+)", cast(IO[str], process.stdout).readline())
            assert found is not None
            with socket.create_connection(("127.0.0.1", int(found[1]))) as gateway:
                gateway.sendall(build_pdu(Command.ENQUIRE_LINK, 1))
                assert gateway.recv(1), "it is served"
                process.send_signal(signal.SIGTERM)
                _, err = process.communicate(timeout=20)
            assert process.returncode == 0
            assert "Traceback" not in err
            assert "0 messages to cards" in err
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--incapable", "many"], "--incapable is a share"),
        (["--loss", "120%"], "--loss is a share"),
        (["--off", "-1"], "--off is a share"),
        (["--result", "3"], "--result is hex"),
        (["--result", ""], "--result is hex"),
        (["--algorithm", "des"], "--algorithm is one of aes, 3des2, 3des3"),
        (["--file", "/proc/no/such"], "can not be written"),
    ],
)
def test_what_is_no_option(options: list[str], words: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["local", "cards", "--file", str(tmp_path / "cards"), *options]) in (1, 2)
    assert words in capfd.readouterr().err


@pytest.mark.parametrize(("text", "share"), [("0%", 0.0), ("20%", 0.2), ("0.25", 0.25), ("1", 1.0), ("100%", 1.0)])
def test_shares(text: str, share: float) -> None:
    assert parse_share(text, "--loss") == share


@pytest.mark.parametrize("text", ["nan", "inf", "", "%", "1e9"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_share(text, "--loss")
