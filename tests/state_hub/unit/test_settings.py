"""The hub's settings, and the token that is made once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from state_hub.errors import ConfigurationError, RefusedError
from state_hub.settings import Settings, allow_remote, load_settings, load_token

EVERY_SETTING = """
state_dir = "state"
database_url = "postgresql://hub@db/hub"
host = "0.0.0.0"
port = 8100
token = "t0ken"
allowed_hosts = ["hub.example"]
allowed_remotes = ["https://forge.example/*"]
repo_roots = ["~/repos", "/srv/repos"]
sweep_lock = "sweep.lock"
jobs = 3
jobs_per_host = 2
repo_timeout = "90s"
overdue = "2h"
bot_name = "Hub Bot"
bot_email = "bot@hub.example"
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


def test_every_setting_can_be_set_in_the_file_and_paths_count_from_its_folder(file: Path, tmp_path: Path) -> None:
    read = load(file, EVERY_SETTING)
    plain = load(file, "")
    assert [each.name for each in fields(Settings) if getattr(read, each.name) == getattr(plain, each.name)] == [
        "source"
    ]
    assert read.state_dir == tmp_path / "etc" / "state"
    assert read.repo_roots == (tmp_path / "home" / "repos", Path("/srv/repos"))
    assert (read.repo_timeout, read.overdue) == (90_000_000, 7_200_000_000)
    assert read.database == "postgresql://hub@db/hub"
    assert plain.database == str(plain.state_dir / "state-hub.db")
    assert plain.source == file


def test_a_variable_overrides_the_file_and_the_command_line_overrides_both(file: Path) -> None:
    file.write_text("jobs = 2\nport = 1\n")
    environment = {"STATE_HUB_JOBS": "5", "STATE_HUB_ALLOWED_REMOTES": "a*, b*,", "STATE_HUB_PORT": ""}
    read = load_settings(file, environment=environment, overrides={"jobs": 7, "host": None})
    assert (read.jobs, read.port, read.host) == (7, 1, "127.0.0.1")
    assert read.allowed_remotes == ("a*", "b*")
    assert load_settings(file, environment=environment).jobs == 5


def test_the_file_is_found_by_its_variable_or_in_the_current_folder(file: Path) -> None:
    file.write_text("jobs = 3\n")
    assert load_settings(environment={"STATE_HUB_CONFIG": str(file)}).jobs == 3
    Path("state-hub.toml").write_text("jobs = 4\n")
    assert load_settings(environment={}).jobs == 4
    with pytest.raises(ConfigurationError, match="no such settings file"):
        load_settings(environment={"STATE_HUB_CONFIG": "nowhere.toml"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("jbos = 1", "jobs"),
        ("jobs = 0", "jobs: must be a whole number above zero"),
        ("jobs = true", "jobs: must be a whole number above zero"),
        ("jobs = -1", "jobs"),
        ("jobs = 1.5", "jobs"),
        ('jobs = "²"', "jobs"),
        ("repo_timeout = 60", "repo_timeout"),
        ('repo_timeout = "soon"', "repo_timeout"),
        ("allowed_remotes = [1]", "allowed_remotes: must be a list of texts"),
        ('bot_email = "nobody"', "bot_email: must be an address"),
        ('bot_email = "a b@c"', "bot_email"),
        ('bot_email = "a@b>\\n"', "bot_email"),
        ('bot_name = "a <b>"', "bot_name"),
        ('bot_name = "a\\nb"', "bot_name"),
        ('bot_name = " "', "bot_name"),
        ('state_dir = "a\\u0000b"', "state_dir"),
        ("state_dir = 1", "state_dir: must be text in quotes"),
        ("jobs =", "not valid TOML"),
        ("a = " + "[" * 3000, "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_be_right(file: Path, text: str, said: str) -> None:
    message = refusal(file, text)
    assert str(file) in message and said in message


def test_a_wrong_variable_is_named(file: Path) -> None:
    assert "$STATE_HUB_JOBS" in refusal(file, "", STATE_HUB_JOBS="many")


def test_bytes_that_are_no_text_are_a_configuration_error(file: Path) -> None:
    file.write_bytes(b"jobs = \xff")
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        load_settings(file, environment={})


def test_secrets_do_not_show_in_the_representation(file: Path) -> None:
    shown = repr(load(file, 'token = "s3cret"\ndatabase_url = "postgresql://u:s3cret@h/d"\n'))
    assert "s3cret" not in shown


def test_only_remotes_on_the_allow_list_may_be_used() -> None:
    settings = Settings(allowed_remotes=("https://forge.example/*", "/srv/*"))
    allow_remote(settings, "https://forge.example/a/b.git")
    allow_remote(settings, "/srv/a.git")
    for url in ("https://forge.example.evil/a", "https://FORGE.example/a", "file:///srv/a", "git@forge.example:a"):
        with pytest.raises(RefusedError, match="allowed_remotes"):
            allow_remote(settings, url)


# -- the token --


def test_a_token_is_made_only_when_asked_and_then_stays(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    assert load_token(settings) is None and not settings.state_dir.exists()
    made = load_token(settings, create=True)
    assert made is not None and len(made) >= 40
    assert load_token(settings, create=True) == load_token(settings) == made
    assert stat.S_IMODE(settings.token_path.stat().st_mode) == 0o600
    assert [path.name for path in settings.state_dir.iterdir()] == ["token"], "nothing else is left behind"


def test_the_token_of_the_settings_comes_first_and_makes_no_file(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", token="given")
    assert load_token(settings, create=True) == "given" and not settings.state_dir.exists()


def test_an_empty_token_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ConfigurationError, match="empty"):
        load_token(Settings(state_dir=tmp_path), create=True)


def test_a_token_file_that_is_no_text_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="token"):
        load_token(Settings(state_dir=tmp_path))


def test_a_folder_where_the_token_should_be_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()
    with pytest.raises(ConfigurationError, match="token"):
        load_token(Settings(state_dir=tmp_path), create=True)


def test_what_a_process_of_the_same_number_left_when_it_was_killed_does_not_keep_the_token_from_being_made(
    tmp_path: Path,
) -> None:
    (tmp_path / f".token.{os.getpid()}").touch()
    assert load_token(Settings(state_dir=tmp_path), create=True)


RACER = """
import sys
from pathlib import Path
from state_hub.settings import Settings, load_token
settings = Settings(state_dir=Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(load_token(settings, create=True))
"""


def test_processes_that_race_to_make_the_token_all_get_the_same_one(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(settings.state_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    told = {racer.communicate()[0].strip() for racer in racers}
    assert told == {load_token(settings)}
    assert [path.name for path in settings.state_dir.iterdir()] == ["token"]
