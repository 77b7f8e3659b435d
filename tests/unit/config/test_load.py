"""Loading: what wins, what is refused, and that a refusal names field, place, value and what is allowed."""

import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config, InvalidConfig, load
from gateway.config.settings import Setting, build_page, build_toml, describe, settings
from gateway.model.errors import ConfigError


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str) -> Path:
        path = tmp_path / "heliograph.toml"
        path.write_text(text)
        return path

    return write_file


def problems(*args, **kwargs) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        load(*args, **{"environ": {}, **kwargs})
    return [str(problem) for problem in caught.value.problems]


def test_nothing_given_means_the_defaults() -> None:
    assert load(environ={}) == Config()


def test_the_default_file_loads_back_equal_to_the_defaults(write) -> None:
    assert load(write(build_toml()), environ={}) == Config()


def test_a_changed_configuration_survives_being_printed_and_read(write) -> None:
    config = load(
        overrides=["edge.port=1", "auth.jwt_algorithms=HS256", "store.sync=false", 'store.path=a"b\\c'], environ={}
    )
    assert load(write(build_toml(config)), environ={}) == config


def test_flags_win_over_environment_over_file_over_defaults(write) -> None:
    path = write("[edge]\nport = 1\nbacklog = 1\nwindow = 1\n")
    config = load(
        path, environ={"HELIOGRAPH_EDGE_BACKLOG": "2", "HELIOGRAPH_EDGE_WINDOW": "2"}, overrides=["edge.window=3"]
    )
    assert (config.edge.port, config.edge.backlog, config.edge.window) == (1, 2, 3)
    assert config.edge.outbox_bytes == Config().edge.outbox_bytes


def test_the_file_may_come_from_the_environment(write) -> None:
    path = write("[api]\nport = 9\n")
    assert load(environ={"HELIOGRAPH_CONFIG": str(path)}).api.port == 9


def test_a_flag_for_the_file_wins_over_the_environment(write, tmp_path: Path) -> None:
    assert load(write("[api]\nport = 9\n"), environ={"HELIOGRAPH_CONFIG": str(tmp_path / "none")}).api.port == 9


def test_dotted_keys_and_underscored_numbers_are_toml_too(write) -> None:
    assert load(write("edge.outbox_bytes = 100_000\n"), environ={}).edge.outbox_bytes == 100_000


def test_a_whole_number_will_do_where_a_fraction_is_taken(write) -> None:
    assert load(write("[edge]\nlogin_timeout_s = 3\n"), environ={}).edge.login_timeout_s == 3.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[egde]\nport = 1\n", ["egde", "no such section", "did you mean edge?", "line 1"]),
        ("[edge]\n\nprot = 1\n", ["edge.prot", "no such setting", "did you mean port?", "line 3"]),
        ("[edge]\nttl_s = 1\n", ["edge.ttl_s", "did you mean delivery.ttl_s?"]),
        ("port = 1\n", ["port", "under a section", "[edge] port", "line 1"]),
        ("edge = 1\n", ["edge", "is a section", "line 1"]),
        ('[edge]\nport = "7400"\n', ["edge.port", "'7400' is text", "whole number from -1 to 65_535", "line 2"]),
        ("[edge]\nport = 7400.0\n", ["edge.port", "7400.0 is a number", "whole number"]),
        ("[edge]\nport = true\n", ["edge.port", "True is a yes or no"]),
        ("[edge]\nport = 1979-05-27\n", ["edge.port", "date or time"]),
        ("[edge]\nport = 65536\n", ["edge.port", "65536 is out of range", "-1 to 65_535"]),
        ("[edge]\nwindow = 0\n", ["edge.window", "a whole number from 1 to"]),
        ("[edge]\nlogins_per_s = -1\n", ["edge.logins_per_s", "from 0 to 1_000_000_000"]),
        ("[edge]\nlogin_timeout_s = nan\n", ["edge.login_timeout_s", "out of range"]),
        ("[edge]\nlogin_timeout_s = inf\n", ["edge.login_timeout_s", "out of range"]),
        ("[store]\nsync = 1\n", ["store.sync", "true or false"]),
        ('[auth]\ndevice = "secert"\n', ["auth.device", "did you mean secret?", "open, secret, jwt"]),
        ('[auth]\njwt_algorithms = ["none"]\n', ["auth.jwt_algorithms", "'none' is not known", "ES256"]),
        ("[auth]\njwt_algorithms = [1]\n", ["auth.jwt_algorithms", "not text"]),
        ("[edge\nport = 1\n", ["not valid TOML", "line 1"]),
        ("[edge]\nport = 1\nport = 2\n", ["not valid TOML"]),
    ],
)
def test_a_bad_file_is_refused_with_field_place_and_what_is_allowed(write, text: str, words: list[str]) -> None:
    (problem,) = problems(write(text))
    assert all(word in problem for word in words), problem
    assert "heliograph.toml" in problem


def test_all_problems_are_told_at_once(write) -> None:
    found = problems(write("[edge]\nport = 70000\nnope = 1\n[api]\nport = 'x'\n"), overrides=["log.level=loud"])
    assert [p.partition(":")[0] for p in found] == ["edge.port", "edge.nope", "api.port", "log.level"]


@pytest.mark.parametrize("bad", [b"\xff\xfe", b"#" * 1_048_577])
def test_a_file_that_is_not_text_or_too_long_is_refused(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(bad)
    (problem,) = problems(path)
    assert str(path) in problem


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path / "none.toml")
    assert "No such file" in problem
    assert "none.toml" in problem


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HELIOGRAPH_EDGE_PORT", "many", ["edge.port", "'many'", "environment HELIOGRAPH_EDGE_PORT"]),
        ("HELIOGRAPH_EDGE_PROT", "1", ["edge.prot", "did you mean port?"]),
        ("HELIOGRAPH_EDGE__PORT", "1", ["did you mean port?"]),
        ("HELIOGRAPH_EGDE_PORT", "1", ["did you mean HELIOGRAPH_EDGE_PORT?"]),
        ("HELIOGRAPH_STORE_SYNC", "maybe", ["store.sync", "true or false"]),
        ("HELIOGRAPH_EDGE_LOGIN_TIMEOUT_S", "", ["edge.login_timeout_s", "not a number"]),
    ],
)
def test_a_bad_variable_is_refused(variable: str, value: str, words: list[str]) -> None:
    (problem,) = problems(environ={variable: value})
    assert all(word in problem for word in words), problem


def test_what_an_orchestrator_puts_into_the_environment_is_left_alone() -> None:
    environ = {
        "HELIOGRAPH_SERVICE_HOST": "10.0.0.1",
        "HELIOGRAPH_SERVICE_PORT": "7400",
        "HELIOGRAPH_PORT": "tcp://10.0.0.1:7400",
        "HELIOGRAPH_PORT_7400_TCP": "tcp://10.0.0.1:7400",
        "HELIOGRAPH_PORT_7400_TCP_ADDR": "10.0.0.1",
        "HELIOGRAPH_PORT_7400_TCP_PORT": "7400",
        "HELIOGRAPH_EDGE_PORT_7400_TCP_PROTO": "tcp",
        "HELIOGRAPH_EDGE_PORT": "tcp://10.0.0.1:7400",
        "OTHER": "x",
    }
    assert load(environ=environ) == Config()


@pytest.mark.parametrize("text", ["edge.port", "port=1", "=1", "edge.=1", ""])
def test_an_override_without_its_form_is_refused(text: str) -> None:
    (problem,) = problems(overrides=[text])
    assert "section.field=value" in problem


@pytest.mark.parametrize(("word", "value"), [("true", True), ("YES", True), ("0", False), ("off", False)])
def test_yes_and_no_have_many_words(word: str, value: bool) -> None:
    assert load(environ={"HELIOGRAPH_STORE_SYNC": word}).store.sync is value


def test_a_list_is_written_with_commas() -> None:
    assert load(overrides=["auth.jwt_algorithms= ES256, EdDSA"], environ={}).auth.jwt_algorithms == ["ES256", "EdDSA"]


@pytest.mark.parametrize("text", ['["ES256", "EdDSA"]', ' ["ES256","EdDSA"] ', "ES256,EdDSA"])
def test_a_list_may_be_json_as_in_the_file(text: str) -> None:
    variable = {"HELIOGRAPH_AUTH_JWT_ALGORITHMS": text}
    for made in (load(overrides=[f"auth.jwt_algorithms={text}"], environ={}), load(environ=variable)):
        assert made.auth.jwt_algorithms == ["ES256", "EdDSA"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "has items that are not text"),
        ('["ES256"', "'[\"ES256\"' is not known"),
        ("[::1]", "'[::1]' is not known"),
    ],
)
def test_what_only_begins_like_json_is_taken_as_it_is(text: str, words: str) -> None:
    assert any(words in each for each in problems(overrides=[f"auth.jwt_algorithms={text}"], environ={}))


def test_lists_are_not_shared_between_configurations() -> None:
    load(environ={}).auth.jwt_algorithms.append("x")
    assert "x" not in load(environ={}).auth.jwt_algorithms


def test_the_error_is_a_config_error_with_the_first_field() -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides=["api.port=-1"], environ={})
    assert caught.value.field == "api.port"


@given(st.sampled_from([s for s in settings() if s.kind in ("int", "float")]), st.floats() | st.integers())
def test_a_number_is_taken_exactly_when_it_is_in_range(setting: Setting, value: float) -> None:
    inside = value >= (setting.low or 0) and value < float("inf") and (setting.high is None or value <= setting.high)
    if setting.kind == "int" and isinstance(value, float):
        inside = False
    config, refused = attempt(f"{setting.path}={value!r}")
    if config is None:
        # a number in range may still be at odds with another setting
        at_odds = (
            "is more than",
            "is not more than",
            "is not shorter than",
            "is empty",
            "no room",
            "could not connect",
            "is the device port too",
            "plain port too",
            "PEM file",
        )
        assert not inside or any(words in refused for words in at_odds)
    else:
        assert inside
        assert getattr(getattr(config, setting.section), setting.name) == value


@given(
    st.dictionaries(
        st.text(max_size=8), st.text(max_size=8) | st.integers() | st.dictionaries(st.text(max_size=8), st.integers())
    )
)
def test_no_table_whatever_ends_in_anything_but_a_config_error(table) -> None:
    from gateway.config.load import _Loader

    loader = _Loader()
    for name, value in table.items():
        loader._read_table(name, value, lambda field: "x")
    assert loader.problems or loader.config == Config() or table


@given(st.text(max_size=40), st.text(max_size=20))
def test_no_override_whatever_ends_in_anything_but_a_config_error(name: str, value: str) -> None:
    config, refused = attempt(f"{name}={value}")
    assert config is not None or refused


def attempt(override: str) -> tuple[Config | None, str]:
    try:
        return load(overrides=[override], environ={}), ""
    except ConfigError as exc:
        return None, exc.message


def test_every_setting_has_an_explanation_and_its_default_is_allowed() -> None:
    for setting in settings():
        assert setting.meaning, setting.path
        assert not setting.meaning.endswith("."), setting.path
        load(overrides=[f"{setting.path}={_text(setting.default)}"], environ={})


def test_every_field_of_every_section_is_described_once() -> None:
    described = [(section.name, s.name) for section in describe() for s in section.settings]
    assert described == [
        (outer.name, inner.name)
        for outer in dataclasses.fields(Config)
        for inner in dataclasses.fields(outer.default_factory)
    ]


def test_the_default_file_is_valid_toml_with_every_setting_in_it() -> None:
    tables = tomllib.loads(build_toml())
    assert {f"{s}.{k}" for s, table in tables.items() for k in table} == {s.path for s in settings()}


def test_the_page_has_a_row_for_every_setting() -> None:
    page = build_page()
    for setting in settings():
        assert f"| `{setting.name}` |" in page
        assert f"`{setting.env}`" in page


def _text(value: object) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def test_a_value_out_of_range_does_not_hide_what_else_is_wrong() -> None:
    found = problems(overrides=["edge.window=-5", "identity.host=", "store.path="])
    assert [text.partition(":")[0] for text in found] == ["edge.window", "identity.host", "store.path"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["edge.port=x", "api.port=7400"],  # the default of edge.port is 7400, and it is not in force
        ["diameter.peer=dra:3868", "identity.mapping=hss"],  # diameter.peers is empty for a slip of the pen
        ["edge.heartbeat_max_s=x", "edge.heartbeat_s=1000"],
    ],
)
def test_what_only_seems_wrong_for_another_mistake_is_not_said(overrides: list[str]) -> None:
    assert len(problems(overrides=overrides)) == 1
