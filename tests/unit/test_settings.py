"""The operator's settings: where they come from, what they mean, and what is said of a wrong one."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest

from activity_core.errors import ConfigurationError
from activity_core.settings import Settings, load_settings

EVERY_SETTING = """
state_dir = "state"
definitions = ["defs", "/srv/defs"]
http_allow = ["127.0.0.1:9000", "[::1]:9000", "http://hub.local:8000"]
state_hub_url = "https://hub.example/base"
state_hub_token = "t0ken"
secrets_dir = "../secrets"
max_parallel = 4
shutdown_grace = "1m30s"
output_cap = "2M"
context_cap = "64K"
history_max_age = "30d"
history_max_runs = 500
rescan_interval = "10s"

[environment]
STATE_HUB_HOME = "/srv/state-hub"
EMPTY = ""
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a settings file goes; the current folder and the home folder are elsewhere and empty."""
    for name in ("here", "home", "etc"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    return tmp_path / "etc" / "settings.toml"


def load(file: Path, text: str, **environment: str) -> Settings:
    file.write_text(text)
    return load_settings(file, environment=environment)


def refusal(file: Path, text: str, **environment: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        load(file, text, **environment)
    return str(refused.value)


# -- what they mean --


def test_every_setting_can_be_written_in_toml(file: Path) -> None:
    settings = load(file, EVERY_SETTING)

    assert settings == Settings(
        state_dir=file.parent / "state",
        definitions=(file.parent / "defs", Path("/srv/defs")),
        environment={"STATE_HUB_HOME": "/srv/state-hub", "EMPTY": ""},
        http_allow=("127.0.0.1:9000", "[::1]:9000", "http://hub.local:8000"),
        state_hub_url="https://hub.example/base",
        state_hub_token="t0ken",
        secrets_dir=file.parent.parent / "secrets",
        max_parallel=4,
        shutdown_grace=90_000_000,
        output_cap=2 << 20,
        context_cap=64 << 10,
        history_max_age=30 * 86_400_000_000,
        history_max_runs=500,
        rescan_interval=10_000_000,
        source=file,
    )
    for each in fields(Settings):
        assert each.name == "source" or each.name in EVERY_SETTING or each.name == "environment"


def test_an_empty_file_gives_the_defaults_and_the_definitions_beside_it(file: Path) -> None:
    settings = load(file, "")

    assert settings == Settings(definitions=(file.parent / "activity-definitions",), source=file)
    assert settings.state_dir == Path.home() / ".local/state/activity-core"
    assert settings.state_hub_url == "http://127.0.0.1:8000"
    assert (settings.max_parallel, settings.output_cap, settings.shutdown_grace) == (16, 1 << 20, 30_000_000)


def test_without_any_file_the_definitions_are_those_of_the_current_folder(file: Path) -> None:
    settings = load_settings(environment={})

    assert settings.source is None
    assert settings.definitions == (Path.cwd() / "activity-definitions",)


def test_relative_paths_are_relative_to_the_file_wherever_one_stands(file: Path) -> None:
    text = 'state_dir = "a/../b"\ndefinitions = [".", "x"]\nsecrets_dir = "~/s"'
    settings = load(file, text)

    assert settings.state_dir == file.parent / "b"
    assert settings.definitions == (file.parent, file.parent / "x")
    assert settings.secrets_dir == Path.home() / "s"


def test_relative_paths_of_variables_are_relative_to_the_current_folder(file: Path) -> None:
    settings = load(file, 'state_dir = "a"', ACTIVITY_STATE_DIR="mine", ACTIVITY_DEFINITIONS="one,/two")

    assert settings.state_dir == Path.cwd() / "mine"
    assert settings.definitions == (Path.cwd() / "one", Path("/two"))


@pytest.mark.parametrize("word", ["", "never"])
def test_history_can_be_kept_for_ever(word: str, file: Path) -> None:
    assert load(file, f'history_max_age = "{word}"').history_max_age is None


@pytest.mark.parametrize("word", ["", "unlimited"])
def test_history_can_be_kept_without_a_number_of_runs(word: str, file: Path) -> None:
    assert load(file, f'history_max_runs = "{word}"').history_max_runs is None


def test_the_files_of_the_engine_lie_in_the_state_folder() -> None:
    settings = Settings(state_dir=Path("/var/lib/x"))

    assert settings.socket_path == Path("/var/lib/x/engine.sock")
    assert settings.lock_path == Path("/var/lib/x/engine.lock")


def test_input_files_lie_in_a_runtime_folder_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(state_dir=Path("/var/lib/x"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    assert settings.input_dir("abc") == tmp_path / "activity-core-abc"
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/no/such/folder")
    assert settings.input_dir("abc") in (
        Path(f"/dev/shm/activity-core-{os.geteuid()}-abc"),
        Path("/var/lib/x/input"),
    )


def test_the_token_is_not_shown_with_the_settings() -> None:
    assert "t0ken" not in repr(Settings(state_hub_token="t0ken"))


# -- where they come from --


def test_a_variable_overrides_the_file_and_the_command_line_overrides_both(file: Path) -> None:
    file.write_text("max_parallel = 2\noutput_cap = '1K'\n")
    environment = {"ACTIVITY_MAX_PARALLEL": "3", "ACTIVITY_STATE_HUB_URL": "http://h:1"}

    assert load_settings(file, environment={}).max_parallel == 2
    assert load_settings(file, environment=environment).max_parallel == 3
    overridden = load_settings(file, environment=environment, overrides={"max_parallel": 4, "state_dir": None})
    assert overridden.max_parallel == 4
    assert (overridden.output_cap, overridden.state_hub_url) == (1024, "http://h:1")
    assert overridden.state_dir == Settings().state_dir


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("http_allow", "a:1,b:2", ("a:1", "b:2")),
        ("state_hub_token", "x", "x"),
        ("shutdown_grace", "5s", 5_000_000),
        ("output_cap", "1G", 1 << 30),
        ("history_max_age", "never", None),
        ("history_max_runs", "unlimited", None),
        ("history_max_runs", "7", 7),
    ],
)
def test_a_variable_is_the_setting_in_upper_case(name: str, written: str, value: object, file: Path) -> None:
    assert getattr(load(file, "", **{f"ACTIVITY_{name.upper()}": written}), name) == value


def test_an_empty_variable_is_no_variable(file: Path) -> None:
    assert load(file, "max_parallel = 2", ACTIVITY_MAX_PARALLEL="").max_parallel == 2


def test_variables_of_commands_cannot_be_set_by_a_variable(file: Path) -> None:
    assert load(file, '[environment]\nA = "1"', ACTIVITY_ENVIRONMENT="B=2").environment == {"A": "1"}


def test_the_first_file_found_counts_and_one_that_is_named_comes_first(file: Path) -> None:
    def runs(**environment: str) -> int | None:
        return load_settings(environment=environment).history_max_runs

    (Path.home() / ".config/activity-core").mkdir(parents=True)
    (Path.home() / ".config/activity-core/config.toml").write_text("history_max_runs = 1")
    assert runs() == 1
    Path("activity-core.toml").write_text("history_max_runs = 2")
    assert runs() == 2
    file.write_text("history_max_runs = 3")
    assert runs(ACTIVITY_CONFIG=str(file)) == 3
    other = file.with_name("other.toml")
    other.write_text("history_max_runs = 4")
    assert load_settings(other, environment={"ACTIVITY_CONFIG": str(file)}).history_max_runs == 4


def test_a_file_that_was_named_must_exist(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such settings file"):
        load_settings(file, environment={})
    with pytest.raises(ConfigurationError, match="there is no such settings file"):
        load_settings(environment={"ACTIVITY_CONFIG": str(file)})
    with pytest.raises(ConfigurationError, match="there is no such settings file"):
        load_settings(file.parent, environment={})


# -- what is wrong --


@pytest.mark.parametrize(
    ("written", "meant"),
    [("max_paralel", "max_parallel"), ("state-dir", "state_dir"), ("definition", "definitions"),
     ("http_allowed", "http_allow"), ("Environment", "environment")],
)  # fmt: skip
def test_an_unknown_setting_is_refused_with_the_nearest_known_one(written: str, meant: str, file: Path) -> None:
    said = refusal(file, f'{written} = "x"')

    assert said == f"{file}: unknown setting {written!r}; did you mean {meant!r}?"


def test_a_setting_that_resembles_none_is_refused_with_all_of_them(file: Path) -> None:
    said = refusal(file, "zzz = 1")

    assert said.startswith(f"{file}: unknown setting 'zzz'; valid here: ")
    for each in fields(Settings):
        assert each.name == "source" or each.name in said


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("state_dir", "3"),
        ("definitions", "3"),
        ("definitions", "[1]"),
        ("environment", '"A=1"'),
        ("environment", "{A = 1}"),
        ("environment", '{ACTIVITY_ID = "x"}'),
        ("http_allow", '["::1"]'),
        ("http_allow", '["host:x"]'),
        ("http_allow", '[""]'),
        ("http_allow", "{a = 1}"),
        ("state_hub_url", '"127.0.0.1:8000"'),
        ("state_hub_url", '"ftp://x"'),
        ("state_hub_url", '"http://"'),
        ("state_hub_url", '"http://x:99999"'),
        ("state_hub_token", "1"),
        ("secrets_dir", "[]"),
        ("max_parallel", "0"),
        ("max_parallel", "-1"),
        ("max_parallel", "true"),
        ("max_parallel", "1.5"),
        ("max_parallel", '"many"'),
        ("max_parallel", "[1]"),
        ("shutdown_grace", "30"),
        ("shutdown_grace", '"30"'),
        ("shutdown_grace", '"-1s"'),
        ("shutdown_grace", '"never"'),
        ("shutdown_grace", '"100000d"'),
        ("output_cap", "1024"),
        ("output_cap", '"1X"'),
        ("output_cap", '"-1K"'),
        ("context_cap", '""'),
        ("history_max_age", "90"),
        ("history_max_runs", "0"),
        ("rescan_interval", "2026-01-01"),
    ],
)
def test_a_bad_value_is_refused_with_its_file_and_key(name: str, written: str, file: Path) -> None:
    said = refusal(file, f"{name} = {written}")

    assert said.startswith(f"{file}: {name}: ")
    assert len(said) > len(f"{file}: {name}: ")


@pytest.mark.parametrize(
    ("name", "written"),
    [("max_parallel", "0"), ("max_parallel", "many"), ("shutdown_grace", "30"), ("state_hub_url", "hub:1"),
     ("http_allow", "a:b"), ("output_cap", "big"), ("history_max_runs", "-3")],
)  # fmt: skip
def test_a_bad_value_of_a_variable_is_refused_with_the_variables_name(name: str, written: str, file: Path) -> None:
    variable = f"ACTIVITY_{name.upper()}"

    assert refusal(file, "", **{variable: written}).startswith(f"${variable}: ")


@pytest.mark.parametrize("text", ["max_parallel = ", "a b", "max_parallel = 1\nmax_parallel = 2", "[", "\x00"])
def test_a_file_that_is_not_toml_is_refused_by_name(text: str, file: Path) -> None:
    assert refusal(file, text).startswith(f"{file}: not valid TOML: ")
