"""Device login in its three modes."""

from __future__ import annotations

import base64
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.device import SECRET_BYTES, DeviceVerifier, build_secret
from gateway.config.sections import Auth
from gateway.model.errors import ConfigError, InvalidField, NodeUnreachable, Unauthorized
from gateway.model.frames import Hello


class Keys:
    def __init__(self, keys: dict[int, bytes], current: int, following: int = -1) -> None:
        self.device_keys = keys
        self.device_key_id = current
        self.device_key_next = following


KEYS = Keys({1: b"a" * 32, 2: b"b" * 32}, 2)


def hello(**fields) -> Hello:
    return Hello(v=1, **fields)


def verifier(mode: str = "secret", keys: Keys = KEYS, **auth) -> DeviceVerifier:
    return DeviceVerifier(Auth(device=mode, **auth), keys)


# --- open ------------------------------------------------------------------------------------------------------------


def test_open_takes_the_name_as_it_is():
    assert verifier("open").verify(hello(device="pump-7 ~x")) == ("pump-7 ~x", b"")


def test_open_issues_an_id_where_none_came():
    ids = {verifier("open").verify(hello()).device for _ in range(50)}
    assert len(ids) == 50
    assert all(len(i) == 12 for i in ids)


def test_open_refuses_more_than_128_bytes_not_characters():
    assert verifier("open").verify(hello(device="x" * 128)).device == "x" * 128
    for long in ("x" * 129, "é" * 65):
        with pytest.raises(InvalidField) as caught:
            verifier("open").verify(hello(device=long))
        assert caught.value.field == "device"
        assert long not in str(caught.value)


# --- secret ----------------------------------------------------------------------------------------------------------


def test_first_hello_gets_id_and_secret_that_log_in_ever_after():
    door = verifier()
    issued = door.verify(hello())
    assert len(issued.secret) == SECRET_BYTES
    assert issued.secret[0] == 2
    assert door.verify(hello(device=issued.device, secret=issued.secret)) == (issued.device, b"")


@pytest.mark.parametrize(("label", "kept"), [("phone", "phone"), ("my phone/ü!", "myphone"), ("a" * 100, "a" * 64)])
def test_a_label_becomes_part_of_the_issued_id(label, kept):
    device = verifier().verify(hello(device=label)).device
    head, _, tail = device.partition("~")
    assert head == kept
    assert len(tail) == 12
    assert len(device.encode()) <= 128


def test_naming_another_device_claims_nothing():
    door = verifier()
    one, two = door.verify(hello(device="phone")), door.verify(hello(device="phone"))
    assert one.device != two.device
    with pytest.raises(Unauthorized):  # an issued id without its secret
        door.verify(hello(device=one.device))
    with pytest.raises(Unauthorized):  # an issued id with another's secret
        door.verify(hello(device=one.device, secret=two.secret))
    with pytest.raises(Unauthorized):  # a secret that belongs to no named device
        door.verify(hello(secret=one.secret))
    unlabelled = door.verify(hello())
    assert door.verify(hello(device=unlabelled.device)).device != unlabelled.device


def test_an_older_kept_key_logs_in_and_is_replaced():
    old = verifier(keys=Keys({1: b"a" * 32}, 1)).verify(hello(device="x"))
    renewed = verifier().verify(hello(device=old.device, secret=old.secret))
    assert renewed.device == old.device
    assert renewed.secret[0] == 2
    assert verifier().verify(hello(device=old.device, secret=renewed.secret)).secret == b""
    with pytest.raises(Unauthorized):  # once the old key is gone its secrets are
        verifier(keys=Keys({2: b"b" * 32}, 2)).verify(hello(device=old.device, secret=old.secret))


def test_a_key_that_others_use_already_is_not_replaced_by_an_older_one():
    device = "x~1"
    newer = build_secret(3, b"c" * 32, device)
    keys = Keys({1: b"a" * 32, 2: b"b" * 32, 3: b"c" * 32}, 2, following=3)
    assert verifier(keys=keys).verify(hello(device=device, secret=newer)).secret == b""
    older = build_secret(1, b"a" * 32, device)
    assert verifier(keys=keys).verify(hello(device=device, secret=older)).secret[0] == 2


def test_who_may_have_missed_a_key_sends_its_devices_away_and_makes_no_secret_older():
    door = DeviceVerifier(Auth(device="secret"), KEYS, is_current=lambda: False)
    device = "x~1"
    with pytest.raises(NodeUnreachable) as caught:  # `unauthorized` would end the device
        door.verify(hello(device=device, secret=build_secret(3, b"c" * 32, device)))
    assert caught.value.retryable
    assert device not in caught.value.message
    assert door.verify(hello(device=device, secret=build_secret(1, b"a" * 32, device))).secret == b""
    with pytest.raises(Unauthorized):  # a known key tells
        door.verify(hello(device=device, secret=bytes((1,)) + bytes(24)))


@given(st.integers(0, SECRET_BYTES * 8 - 1), st.text(max_size=20))
def test_any_flipped_bit_of_a_secret_fails_and_is_not_told(bit, label):
    door = verifier()
    issued = door.verify(hello(device=label.replace("~", "")))
    wrong = bytearray(issued.secret)
    wrong[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Unauthorized) as caught:
        door.verify(hello(device=issued.device, secret=bytes(wrong)))
    said = f"{caught.value!s} {caught.value!r}"
    for secret in (issued.secret, bytes(wrong)):
        assert secret.hex() not in said
        assert repr(secret)[2:-1] not in said
        assert base64.urlsafe_b64encode(secret).decode() not in said
    assert issued.device not in said


@given(st.binary(max_size=40), st.text(min_size=1, max_size=40))
def test_no_other_bytes_pass(secret, device):
    if secret in (build_secret(1, KEYS.device_keys[1], device), build_secret(2, KEYS.device_keys[2], device)):
        return
    try:
        passed = verifier().verify(hello(device=device, secret=secret))
    except Unauthorized:
        return
    assert not secret  # only a HELLO without secret is answered, with a new id
    assert passed.device != device


@pytest.mark.parametrize("size", [1, SECRET_BYTES - 1, SECRET_BYTES + 1])
def test_a_secret_of_another_length_fails(size):
    issued = verifier().verify(hello(device="x"))
    with pytest.raises(Unauthorized):
        verifier().verify(hello(device=issued.device, secret=(issued.secret + b"\0")[:size]))


def test_verified_does_not_print_its_secret():
    issued = verifier().verify(hello(device="x"))
    assert repr(issued.secret)[2:-1] not in repr(issued)


def test_a_login_costs_microseconds():
    door = verifier()
    issued = door.verify(hello(device="x"))
    frame = hello(device=issued.device, secret=issued.secret)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(200):
            door.verify(frame)
        best = min(best, (time.perf_counter() - start) / 200)
    assert best < 10e-6


# --- jwt -------------------------------------------------------------------------------------------------------------


def pem(key) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ED = ed25519.Ed25519PrivateKey.generate()


@pytest.fixture
def key_file(tmp_path):
    def write(raw: bytes) -> str:
        path = tmp_path / "jwt.key"
        path.write_bytes(raw)
        return str(path)

    return write


def claims(**more) -> dict[str, object]:
    return {"sub": "pump-7", "exp": int(time.time()) + 60, **more}


@pytest.mark.parametrize(("key", "algorithm"), [(EC, "ES256"), (RSA, "RS256"), (ED, "EdDSA")])
def test_a_signed_token_logs_its_subject_in(key_file, key, algorithm):
    door = verifier("jwt", jwt_key_file=key_file(pem(key)))
    assert door.verify(hello(jwt=jwt.encode(claims(), key, algorithm))) == ("pump-7", b"")


def test_a_shared_secret_works_with_hs_alone(key_file):
    secret = b"s" * 40
    door = verifier("jwt", jwt_key_file=key_file(secret), jwt_algorithms=["HS256"])
    assert door.verify(hello(jwt=jwt.encode(claims(), secret, "HS256"))).device == "pump-7"


def test_a_public_key_is_never_taken_as_an_hmac_secret(key_file):
    public = pem(EC)
    with pytest.raises(ConfigError):
        verifier("jwt", jwt_key_file=key_file(public), jwt_algorithms=["ES256", "HS256"])
    door = verifier("jwt", jwt_key_file=key_file(public))
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()).rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
    mac = base64.urlsafe_b64encode(hmac.digest(public, head + b"." + body, "sha256")).rstrip(b"=")
    with pytest.raises(Unauthorized):
        door.verify(hello(jwt=b".".join((head, body, mac)).decode()))


@pytest.mark.parametrize(
    "broken",
    [
        {"exp": int(time.time()) - 31},
        {"exp": None},
        {"sub": None},
        {"sub": ""},
        {"nbf": int(time.time()) + 86_400},  # read when the tests are collected, long before it is used
    ],
)
def test_a_token_with_a_bad_claim_is_refused(key_file, broken):
    door = verifier("jwt", jwt_key_file=key_file(pem(EC)))
    body = {k: v for k, v in claims(**broken).items() if v is not None}
    token = jwt.encode(body, EC, "ES256")
    with pytest.raises(Unauthorized) as caught:
        door.verify(hello(jwt=token))
    assert token.split(".")[1] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_leeway_is_thirty_seconds(key_file):
    door = verifier("jwt", jwt_key_file=key_file(pem(EC)))
    assert door.verify(hello(jwt=jwt.encode(claims(exp=int(time.time()) - 20), EC, "ES256"))).device == "pump-7"


def test_a_long_subject_is_refused(key_file):
    door = verifier("jwt", jwt_key_file=key_file(pem(EC)))
    with pytest.raises(InvalidField):
        door.verify(hello(jwt=jwt.encode(claims(sub="x" * 129), EC, "ES256")))


def test_audience_is_checked_where_it_is_set(key_file):
    path = key_file(pem(EC))
    door = verifier("jwt", jwt_key_file=path, jwt_audience="push")
    assert door.verify(hello(jwt=jwt.encode(claims(aud="push"), EC, "ES256"))).device == "pump-7"
    for wrong in ({"aud": "mail"}, {}):
        with pytest.raises(Unauthorized):
            door.verify(hello(jwt=jwt.encode(claims(**wrong), EC, "ES256")))
    relaxed = verifier("jwt", jwt_key_file=path)
    assert relaxed.verify(hello(jwt=jwt.encode(claims(aud="anything"), EC, "ES256"))).device == "pump-7"


@pytest.mark.parametrize(
    "token", ["", "x", "a.b.c", "....", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4IiwiZXhwIjo5OTk5OTk5OTk5fQ."]
)
def test_rubbish_and_unsigned_tokens_are_refused(key_file, token):
    with pytest.raises(Unauthorized):
        verifier("jwt", jwt_key_file=key_file(pem(EC))).verify(hello(jwt=token))


def test_another_key_is_refused(key_file):
    door = verifier("jwt", jwt_key_file=key_file(pem(EC)))
    with pytest.raises(Unauthorized):
        door.verify(hello(jwt=jwt.encode(claims(), ec.generate_private_key(ec.SECP256R1()), "ES256")))


@pytest.mark.parametrize(
    ("raw", "algorithms"),
    [
        (pem(EC), ["none"]),
        (pem(EC), ["RS256"]),
        (b"short", ["HS256"]),
        (b"s" * 40, ["ES256"]),
        (b"-----BEGIN NONSENSE-----\n", ["ES256"]),
    ],
)
def test_keys_and_algorithms_that_do_not_fit_are_refused_at_start(key_file, raw, algorithms):
    with pytest.raises(ConfigError) as caught:
        verifier("jwt", jwt_key_file=key_file(raw), jwt_algorithms=algorithms)
    assert caught.value.field.startswith("auth.jwt_")


def test_no_key_file_is_refused_at_start(tmp_path):
    for path in ("", str(tmp_path / "none")):
        with pytest.raises(ConfigError):
            verifier("jwt", jwt_key_file=path)
