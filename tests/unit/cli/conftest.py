"""What commands of providers and operators talk to."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from command_api import Api


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    api = Api()
    thread = threading.Thread(target=api.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HELIOGRAPH_URL", api.url)
    monkeypatch.setenv("HELIOGRAPH_KEY", "app-key")
    monkeypatch.delenv("HELIOGRAPH_CONFIG", raising=False)
    yield api
    api.server.shutdown()
    thread.join()
    api.server.server_close()
