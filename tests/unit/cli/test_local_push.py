"""`heliograph local apns`, `fcm` and `webpush`: push services that a person can try a notifier with."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, cast

import pytest
from upstream_rig import IDS, PATIENT, build_app, build_notification, build_registration

from gateway.cli import run
from gateway.cli.apps import _settings_of
from gateway.metrics import Metrics
from gateway.model.notification import Content
from gateway.notifiers.apns.client import ApnsNotifier
from gateway.notifiers.apns.settings import check_settings as check_apns
from gateway.notifiers.fcm.client import FcmNotifier
from gateway.notifiers.fcm.settings import check_settings as check_fcm
from gateway.notifiers.webpush.client import WebPushNotifier
from gateway.notifiers.webpush.settings import check_settings as check_webpush

NOTIFIERS: dict[str, Any] = {
    "apns": (ApnsNotifier, check_apns, r'alert, priority 10, \{"aps": .*"body": "there\\nyou"'),
    "fcm": (FcmNotifier, check_fcm, r'\{"data": .*"body": "there\\nyou"'),
    "webpush": (WebPushNotifier, check_webpush, r'urgency normal, ttl \d+, \{"push": .*"text": "there\\nyou"'),
}
REFUSED = {"apns": "400 BadDeviceToken", "fcm": "404 UNREGISTERED", "webpush": "404"}


@pytest.mark.parametrize("name", NOTIFIERS)
async def test_what_is_printed_sets_an_app_up_and_what_it_pushes_is_a_line(name: str, tmp_path: Path) -> None:
    build, check, expected = NOTIFIERS[name]
    folder = tmp_path / "a folder"
    command = [sys.executable, "-m", "gateway.cli", "local", name, "--port", "0", "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = cast(IO[str], process.stdout), cast(IO[str], process.stderr)
            assert re.match(rf"{name.upper()} at https://localhost:\d+, ", out.readline())
            words = shlex.split(err.readline().removeprefix("set the app up: "))
            assert words[:5] == ["heliograph", "apps", "notifier", "shop", name]
            assert words[-2:] == ["--fallback", name]
            settings = _settings_of(words[5:-2])
            check(settings)
            hint = shlex.split(err.readline())
            body = json.loads(Path(hint[hint.index("-d") + 1].removeprefix("@")).read_text())
            assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}

            # as gateways are by default: the app's own settings must do
            options = {"allows_private": False} if name == "webpush" else {}
            notifier = build(PATIENT, push_ids=IDS, metrics=Metrics(process=False), **options)
            notification = build_notification(content=Content(title="Hi", text="there\nyou"))
            known = build_registration(name, body["addresses"][name])
            assert (await notifier.notify(build_app(name, settings), known, notification)).ok
            line = await asyncio.to_thread(out.readline)
            assert re.match(expected, line)
            unknown = build_registration(name, another(name, body["addresses"][name]))
            assert not (await notifier.notify(build_app(name, settings), unknown, notification)).ok
            await notifier.close()
            process.send_signal(signal.SIGINT)
            rest, error = await asyncio.to_thread(process.communicate, timeout=20)
        finally:
            process.kill()
    assert (process.returncode, rest) == (0, "")
    assert f"{REFUSED[name]}\n" in error
    assert "Traceback" not in error


def another(name: str, address: str) -> str:
    """Of a device that is not known there."""
    if name == "webpush":
        subscription = json.loads(address)
        return json.dumps({**subscription, "endpoint": subscription["endpoint"] + "x"})
    return "cd" * 32


@pytest.mark.parametrize("name", NOTIFIERS)
def test_a_port_that_is_taken_or_a_folder_that_can_not_be_is_said_so(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ["--port", str(taken.getsockname()[1]), "--folder", str(tmp_path)]
        assert run(["local", name, *options]) == 1
    assert "in use" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run(["local", name, "--port", "0", "--folder", str(tmp_path / "file")]) == 1
    assert "can not be written" in capsys.readouterr().err
