"""What a person may type into the form of a Matrix account."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.im.connectors.matrix.form import FORM, parse_form
from gateway.model.im import Credentials, Rejected

NAMES = [field.name for field in FORM]


def form(**values: str) -> Credentials:
    return Credentials(values)


def test_a_user_id_alone_names_the_server_to_ask() -> None:
    login = parse_form(form(user="@anna:Example.org", password="p"))
    assert (login.base, login.server, login.host) == ("", "Example.org", "example.org")


@pytest.mark.parametrize(
    "address", ["matrix.example.org", "https://matrix.example.org/", " https://matrix.example.org"]
)
def test_a_homeserver_may_stand_without_its_scheme(address: str) -> None:
    login = parse_form(form(user="anna", homeserver=address, password="p"))
    assert login.base == "https://matrix.example.org"
    assert login.host == "matrix.example.org"


def test_the_device_is_the_same_each_time_and_another_for_another_account() -> None:
    first = parse_form(form(user="@anna:example.org", password="p")).device
    assert first == parse_form(form(user="@anna:example.org", password="changed")).device
    assert first != parse_form(form(user="@bert:example.org", password="p")).device
    assert parse_form(form(user="@anna:example.org", password="p", device="MINE")).device == "MINE"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("user", {"password": "p"}),
        ("user", {"user": "@anna", "password": "p"}),
        ("user", {"user": "anna:example.org", "password": "p"}),
        ("user", {"user": "@:example.org", "password": "p"}),
        ("user", {"user": "@anna:exa mple.org/x", "password": "p"}),
        ("user", {"user": "x" * 2_000, "password": "p"}),
        ("user", {"user": "anna\x00", "homeserver": "example.org", "password": "p"}),
        ("password", {"user": "@anna:example.org"}),
        ("homeserver", {"user": "anna", "password": "p"}),
        ("homeserver", {"user": "anna", "password": "p", "homeserver": "http://example.org"}),
        ("homeserver", {"user": "anna", "password": "p", "homeserver": "ftp://example.org"}),
        ("homeserver", {"user": "anna", "password": "p", "homeserver": "https://a:b@example.org"}),
        ("homeserver", {"user": "anna", "password": "p", "homeserver": "https://"}),
        ("homeserver", {"user": "anna", "password": "p", "homeserver": "https://x:port"}),
        ("homeserver", {"user": "@anna:example.org", "password": "p", "tls": "never"}),
        ("tls", {"user": "@anna:example.org", "password": "p", "tls": "sometimes"}),
        ("device", {"user": "@anna:example.org", "password": "p", "device": "a b"}),
    ],
)
def test_the_error_names_the_field(field: str, values: dict[str, str]) -> None:
    with pytest.raises(Rejected, match=f"^{field}:"):
        parse_form(Credentials(values))


def test_plain_http_takes_a_word() -> None:
    login = parse_form(form(user="anna", homeserver="http://10.0.0.1:8008", password="p", tls="never"))
    assert login.base == "http://10.0.0.1:8008"


def test_nothing_shows_a_value() -> None:
    login = parse_form(form(user="@anna:example.org", password="geheim", token="t0ken"))
    assert not any(word in repr(login) for word in ("anna", "geheim", "t0ken", "example"))


@given(st.dictionaries(st.sampled_from([*NAMES, "else"]), st.text(max_size=60)))
def test_whatever_is_typed_is_a_login_or_rejected(values: dict[str, str]) -> None:
    try:
        login = parse_form(Credentials(values))
    except Rejected as exc:
        secrets = [value for name, value in values.items() if len(value) > 8 and value in str(exc)]
        assert not secrets
    else:
        assert login.host
