"""The server's secret keys, in `keys.json` beside the store; they must never be logged, nor made anew where a store
needs the old ones.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.model.errors import ConfigError
from gateway.store.device_keys import KEY_BYTES as KEY_BYTES
from gateway.store.device_keys import KEY_IDS as KEY_IDS
from gateway.store.device_keys import NO_KEY, DeviceKeyRing

KEY_FILE = "keys.json"
#: 1: without keys of IM. An older program would write the file without them, so it has to refuse it
_FORMAT, _FORMAT_BEFORE_IM = 2, 1
_NAMES = ("token_key", "push_id_key", "hash_key")
_FIELD = "store.path"


class ServerKeys:
    """Keys that outlive every restart. Losing them makes every token and device secret worthless."""

    def __init__(
        self,
        path: Path,
        *,
        token_key: bytes,
        push_id_key: bytes,
        hash_key: bytes,
        device_keys: dict[int, bytes],
        device_key_id: int,
        device_key_next: int = NO_KEY,
        im_keys: dict[int, bytes] | None = None,
        im_key_id: int = 0,
    ) -> None:
        self.path = path
        #: makes message tokens from triples (A1)
        self.token_key = token_key
        #: turns sequence numbers into push ids
        self.push_id_key = push_id_key
        #: keyed hashes of device ids
        self.hash_key = hash_key
        #: device secrets are made with the current one and verified with the one they name
        self.device_keys = device_keys
        self.device_key_id = device_key_id
        #: a fleet's newest, which nothing is made with before all nodes have it; NO_KEY: there is none
        self.device_key_next = device_key_next
        #: wrap the data keys of IM users; the current one wraps new ones, 0: there is none yet
        self.im_keys = im_keys or {}
        self.im_key_id = im_key_id

    @classmethod
    def load(cls, folder: Path, *, may_create: bool) -> ServerKeys:
        """Read the key file, or make it where there is none and `may_create`. ConfigError says what is wrong and the
        fix.
        """
        path = folder / KEY_FILE
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if not may_create:
                raise ConfigError(
                    f"{KEY_FILE} is missing beside a store that has registrations; put it back from the backup",
                    field=_FIELD,
                ) from None
            return cls._create(path)
        except OSError as exc:
            raise ConfigError(f"{KEY_FILE} can not be read: {exc.strerror}", field=_FIELD) from exc
        with os.fdopen(descriptor, "rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigError(f"{KEY_FILE} can be read by others; chmod 600 it", field=_FIELD)
            raw = file.read()
        return cls.parse(path, raw)

    @classmethod
    def parse(cls, path: Path, raw: bytes) -> ServerKeys:
        """What `build` made. ConfigError."""
        try:
            return cls._parse(path, json.loads(raw))
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
            # the cause could quote a key: leave it out
            raise ConfigError(f"{KEY_FILE} is damaged; put it back from the backup", field=_FIELD) from None

    @classmethod
    def _create(cls, path: Path) -> ServerKeys:
        keys = cls(
            path,
            token_key=secrets.token_bytes(KEY_BYTES),
            push_id_key=secrets.token_bytes(KEY_BYTES),
            hash_key=secrets.token_bytes(KEY_BYTES),
            device_keys={1: secrets.token_bytes(KEY_BYTES)},
            device_key_id=1,
            im_keys={1: secrets.token_bytes(KEY_BYTES)},
            im_key_id=1,
        )
        keys._save()
        return keys

    @classmethod
    def _parse(cls, path: Path, record: dict[str, Any]) -> ServerKeys:
        if record["format"] not in (_FORMAT, _FORMAT_BEFORE_IM):
            raise ConfigError(f"{KEY_FILE} was written by a newer version; start that version", field=_FIELD)
        named = {name: _parse_key(record[name]) for name in _NAMES}
        device_keys = {int(key_id): _parse_key(text) for key_id, text in record["device_keys"].items()}
        current = record["device_key_id"]
        if not isinstance(current, int) or current not in device_keys:
            raise ValueError
        following = record.get("device_key_next", NO_KEY)
        if following != NO_KEY and (not isinstance(following, int) or following not in device_keys):
            raise ValueError
        im_keys = {int(key_id): _parse_key(text) for key_id, text in record.get("im_keys", {}).items()}
        im_current = record.get("im_key_id", 0)
        if not isinstance(im_current, int) or (im_current != 0 and im_current not in im_keys):
            raise ValueError
        return cls(
            path,
            **named,
            device_keys=device_keys,
            device_key_id=current,
            device_key_next=following,
            im_keys=im_keys,
            im_key_id=im_current,
        )

    @property
    def ring(self) -> DeviceKeyRing:
        return DeviceKeyRing(self.device_keys, self.device_key_id, self.device_key_next)

    def take(self, ring: DeviceKeyRing) -> None:
        """These are its device keys from now on, in RAM alone."""
        self.device_keys, self.device_key_id, self.device_key_next = ring

    def rotate_device_key(self) -> int:
        """New device secrets use a new key from now on; those made with older ones stay valid until dropped."""
        ring = self.ring.with_next().with_next_used()
        self._replace_ring(ring)
        return ring.current

    def drop_device_key(self, key_id: int) -> None:
        """Secrets made with this key are no longer valid. ConfigError for the current key or an unknown id."""
        self._replace_ring(self.ring.without(key_id))

    def _replace_ring(self, ring: DeviceKeyRing) -> None:
        self._replace(device_keys=ring.keys, device_key_id=ring.current, device_key_next=ring.next)

    def rotate_im_key(self) -> int:
        """Data keys of IM users are wrapped with a new key from now on; the gateway wraps the others again when it
        runs. Numbers go from 1 to 255."""
        free = ((self.im_key_id + step - 1) % (KEY_IDS - 1) + 1 for step in range(1, KEY_IDS))
        key_id = next((key_id for key_id in free if key_id not in self.im_keys), 0)
        if key_id == 0:
            raise ConfigError("all IM key ids are in use; drop old ones first", field="im_key_id")
        self._replace(im_keys={**self.im_keys, key_id: secrets.token_bytes(KEY_BYTES)}, im_key_id=key_id)
        return key_id

    def make_first_im_key(self) -> None:
        """In a file from before IM; where it can not be written there are no IM users."""
        with suppress(ConfigError):
            self.rotate_im_key()

    def drop_im_key(self, key_id: int) -> None:
        """Whoever calls this knows that nothing is wrapped with it any more. ConfigError for the current key or an
        unknown id."""
        if key_id == self.im_key_id:
            raise ConfigError("the current IM key can not be dropped; rotate first", field="im_key_id")
        if key_id not in self.im_keys:
            raise ConfigError("there is no IM key with this id", field="im_key_id")
        self._replace(im_keys={k: v for k, v in self.im_keys.items() if k != key_id})

    def _replace(self, **changed: Any) -> None:
        before = {name: getattr(self, name) for name in changed}
        self.__dict__.update(changed)
        try:
            self._save()
        except ConfigError:
            self.__dict__.update(before)
            raise

    def _save(self) -> None:
        write_secret_file(self.path, self.build())

    def build(self) -> bytes:
        """The text of the key file: secret."""
        record: dict[str, object] = {"format": _FORMAT}
        record.update({name: _build_key(getattr(self, name)) for name in _NAMES})
        record["device_keys"] = {str(key_id): _build_key(key) for key_id, key in self.device_keys.items()}
        record["device_key_id"] = self.device_key_id
        if self.device_key_next != NO_KEY:
            record["device_key_next"] = self.device_key_next
        record["im_keys"] = {str(key_id): _build_key(key) for key_id, key in self.im_keys.items()}
        record["im_key_id"] = self.im_key_id
        return json.dumps(record, indent=1).encode() + b"\n"


def write_secret_file(path: Path, raw: bytes) -> None:
    """Write a mode 0600 file so that a crash leaves either the old one or the new one, whole and on disk."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as exc:
        raise ConfigError(f"{path.name} can not be written: {exc.strerror}", field=_FIELD) from exc


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _build_key(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _parse_key(text: str) -> bytes:
    key = base64.b64decode(text, validate=True)
    if len(key) != KEY_BYTES:
        raise ValueError
    return key
