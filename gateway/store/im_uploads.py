"""Rows of uploads: which there are and what came of them; must never hold a byte of one."""

from __future__ import annotations

import asyncio

import msgspec

from gateway.model.im_media import StoredUpload
from gateway.store.commit import Committer
from gateway.store.environment import Environment
from gateway.store.records import DELETE, PUT, Db

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StoredUpload).decode


class UploadRows:
    """Control thread only. Who asks keeps them in RAM, so nothing is read but at a start."""

    def __init__(self, environment: Environment, committer: Committer) -> None:
        self._environment = environment
        self._committer = committer

    def load(self) -> list[StoredUpload]:
        return [_decode(raw) for _, raw in self._environment.scan(Db.UPLOADS)]

    def put(self, upload: StoredUpload) -> asyncio.Future[None]:
        return self._committer.accept([(PUT, Db.UPLOADS, upload.upload, _encode(upload))])

    def remove(self, upload: bytes) -> asyncio.Future[None]:
        return self._committer.accept([(DELETE, Db.UPLOADS, upload, b"")])
