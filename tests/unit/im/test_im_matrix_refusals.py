"""What a homeserver's refusals mean."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.im.connectors.matrix.refusals import MAX_RETRY_S, Refusal, classify, classify_login
from gateway.model.im import AuthFailed, Transient


def body(code: str, **more: object) -> bytes:
    return msgspec.json.encode({"errcode": code, "error": "words of theirs", **more})


@pytest.mark.parametrize(
    ("status", "content", "kind"),
    [
        (401, body("M_UNKNOWN_TOKEN", soft_logout=True), AuthFailed),
        (401, b"<html>", AuthFailed),
        (403, body("M_USER_DEACTIVATED"), AuthFailed),
        (403, body("M_FORBIDDEN"), Refusal),
        (404, body("M_NOT_FOUND"), Refusal),
        (413, b"", Refusal),
        (429, body("M_LIMIT_EXCEEDED", retry_after_ms=1_500), Transient),
        (500, body("M_UNKNOWN"), Transient),
        (502, b"<html>bad gateway</html>", Transient),
        (302, b"", Transient),
        (400, b"[" * 100_000, Refusal),
    ],
)
def test_each_refusal_has_its_class(status: int, content: bytes, kind: type[Exception]) -> None:
    error = classify(status, {}, content)
    assert type(error) is kind
    assert "theirs" not in str(error)


def test_the_server_says_when_to_come_back() -> None:
    for error in (
        classify(429, {}, body("M_LIMIT_EXCEEDED", retry_after_ms=1_500)),
        classify(503, {"retry-after": "2"}, b""),
    ):
        assert isinstance(error, Transient)
        assert 1.5 <= error.retry_after_s <= 2.0


def test_a_wrong_password_is_no_refusal_of_one_message() -> None:
    assert isinstance(classify_login(Refusal("", 403, "M_FORBIDDEN")), AuthFailed)
    assert isinstance(classify_login(Refusal("", 404, "")), Refusal)


@given(
    st.integers(100, 599).filter(lambda status: not 200 <= status < 300),
    st.dictionaries(st.sampled_from(["retry-after", "x"]), st.text(max_size=20)),
    st.one_of(
        st.binary(max_size=60),
        st.fixed_dictionaries(
            {
                "errcode": st.one_of(st.none(), st.text(max_size=9), st.integers()),
                "retry_after_ms": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers()),
            }
        ).map(lambda answer: msgspec.json.encode(answer)),
    ),
)
def test_every_answer_has_a_class(status: int, headers: dict[str, str], content: bytes) -> None:
    error = classify(status, headers, content)
    assert isinstance(error, AuthFailed | Transient | Refusal)
    if isinstance(error, Transient):
        assert 0.0 <= error.retry_after_s <= MAX_RETRY_S
    assert isinstance(classify_login(error), AuthFailed | Transient | Refusal)
