"""Matrix over its client-server API (https://spec.matrix.org/v1.11/client-server-api/), with httpx alone: mautrix reads
answers without a bound, tries again by itself and logs what it sends. Encrypted rooms are not spoken."""

from __future__ import annotations

import logging

from gateway.im.connectors import ConnectorSettings
from gateway.im.connectors.matrix.connector import MatrixConnector
from gateway.model.im import Connector


def build(settings: ConnectorSettings) -> Connector:
    for name in ("httpx", "httpcore"):  # their lines hold addresses and rooms
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    return MatrixConnector(settings)
