"""What a command finds in its environment."""

from __future__ import annotations

import os
import pwd
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activity_core.errors import CommandError, ConfigurationError
from activity_core.shell.environment import LONGEST_VALUE, base_environment, data_variables, read_secret

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = [
    "$(touch x)",
    "`touch x`",
    '";touch x;"',
    "'; touch x #",
    "$HOME ${IFS} \\ * ~ ! %s",
    "\n touch x\n",
    "-n",
    "é\u2028\U0001f600",
    "",
]


def seen_by_a_shell(variables: dict[str, str], name: str, folder: Path) -> str:
    script = f'printf "<%s>" "${name}"; eval "echo" >/dev/null'
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        env={**base_environment(), **variables},
        cwd=folder,
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("title", HOSTILE)
def test_an_event_title_reaches_a_shell_literally_and_is_not_executed(title: str, tmp_path: Path) -> None:
    variables = data_variables("ACTIVITY_EVENT", {"data": {"title": title}})

    assert seen_by_a_shell(variables, "ACTIVITY_EVENT_DATA_TITLE", tmp_path) == f"<{title}>"
    assert list(tmp_path.iterdir()) == []


def test_paths_are_joined_in_upper_case_and_scalars_are_written_as_json_writes_them() -> None:
    value = {
        "id": "e1",
        "data": {"repo-slug": "x", "Count": 3, "ratio": 0.5, "ok": True, "no": False, "none": None, "a.b c": "y"},
    }

    assert data_variables("ACTIVITY_EVENT", value) == {
        "ACTIVITY_EVENT_ID": "e1",
        "ACTIVITY_EVENT_DATA_REPO_SLUG": "x",
        "ACTIVITY_EVENT_DATA_COUNT": "3",
        "ACTIVITY_EVENT_DATA_RATIO": "0.5",
        "ACTIVITY_EVENT_DATA_OK": "true",
        "ACTIVITY_EVENT_DATA_NO": "false",
        "ACTIVITY_EVENT_DATA_NONE": "",
        "ACTIVITY_EVENT_DATA_A_B_C": "y",
    }


def test_lists_are_left_to_the_input_file() -> None:
    assert data_variables("ACTIVITY_ITEM", {"tags": ["a", {"b": "c"}], "name": "n"}) == {"ACTIVITY_ITEM_NAME": "n"}


def test_a_scalar_by_itself_has_the_prefix_as_its_name() -> None:
    assert data_variables("ACTIVITY_ITEM", "one") == {"ACTIVITY_ITEM": "one"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_characters="\0", codec="utf-8")),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=6), below, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_data_of_any_kind_sets_only_names_under_its_prefix(value: object) -> None:
    try:
        variables = data_variables("ACTIVITY_EVENT", value)
    except CommandError as refused:
        assert "ACTIVITY_INPUT" in str(refused)
        return
    for name in variables:
        assert name == "ACTIVITY_EVENT" or name.startswith("ACTIVITY_EVENT_")
        assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "IFS", "ENV", "=PATH", "\nPATH"])
def test_an_event_that_names_a_variable_of_the_system_sets_only_its_own(name: str) -> None:
    assert all(found.startswith("ACTIVITY_EVENT_") for found in data_variables("ACTIVITY_EVENT", {name: "evil"}))


@pytest.mark.parametrize(
    ("value", "first", "second"),
    [
        ({"a-b": 1, "a.b": 2}, "a-b", "a.b"),
        ({"a": {"b": 1}, "a_b": 2}, "a.b", "a_b"),
        ({"Title": "x", "title": "y"}, "Title", "title"),
        ({"é": 1, "ü": 2}, "é", "ü"),
    ],
)
def test_two_paths_that_make_one_name_are_refused_by_both_their_names(
    value: dict[str, object], first: str, second: str
) -> None:
    with pytest.raises(CommandError) as refused:
        data_variables("ACTIVITY_EVENT", value)
    assert first in str(refused.value)
    assert second in str(refused.value)
    assert "$ACTIVITY_INPUT" in str(refused.value)


def test_a_nul_is_refused_with_the_path_of_the_value() -> None:
    with pytest.raises(CommandError, match=r"data\.title holds a NUL"):
        data_variables("ACTIVITY_EVENT", {"data": {"title": "a\0b"}})


def test_a_value_of_two_mebibytes_is_refused_with_its_path() -> None:
    with pytest.raises(CommandError, match=r"data\.body is longer than the 128 KiB"):
        data_variables("ACTIVITY_EVENT", {"data": {"body": "x" * (2 << 20)}})


@pytest.mark.parametrize("letter", ["x", "é"])
def test_the_longest_value_that_is_let_through_is_one_the_system_takes(letter: str, tmp_path: Path) -> None:
    width = len(letter.encode())
    longest = (LONGEST_VALUE - 1 - len("ACTIVITY_ITEM")) // width

    variables = data_variables("ACTIVITY_ITEM", letter * longest)

    assert seen_by_a_shell(variables, "ACTIVITY_ITEM", tmp_path) == f"<{letter * longest}>"
    with pytest.raises(CommandError):
        data_variables("ACTIVITY_ITEM", letter * (longest + 1))


def test_a_command_starts_from_the_six_documented_variables() -> None:
    account = pwd.getpwuid(os.geteuid())

    assert base_environment() == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": account.pw_dir if os.path.isdir(account.pw_dir) else "/",  # noqa: PTH112 - as an outsider would ask
        "LOGNAME": account.pw_name,
        "USER": account.pw_name,
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
    }


def test_nothing_of_this_process_own_environment_is_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_ENGINE", "x")
    monkeypatch.setenv("HOME", "/nowhere")
    base_environment.cache_clear()

    assert "SECRET_OF_THE_ENGINE" not in base_environment()
    assert base_environment()["HOME"] != "/nowhere"


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    credentials, folder = tmp_path / "credentials", tmp_path / "secrets"
    credentials.mkdir()
    folder.mkdir()
    return credentials, folder


def test_a_secret_is_taken_from_credentials_before_the_folder_before_the_environment(
    places: tuple[Path, Path],
) -> None:
    credentials, folder = places
    environment = {"CREDENTIALS_DIRECTORY": str(credentials), "TOKEN": "from the environment"}
    assert read_secret("TOKEN", environment=environment, folder=folder) == "from the environment"
    assert read_secret("TOKEN", environment={"TOKEN": "alone"}, folder=None) == "alone"
    (folder / "TOKEN").write_text("from the folder\n")
    assert read_secret("TOKEN", environment=environment, folder=folder) == "from the folder"
    (credentials / "TOKEN").write_text("from credentials\n")
    assert read_secret("TOKEN", environment=environment, folder=folder) == "from credentials"


def test_one_newline_at_the_end_of_a_secret_file_is_dropped_and_no_more(places: tuple[Path, Path]) -> None:
    _, folder = places
    (folder / "KEY").write_text(" line 1\nline 2 \n\n")

    assert read_secret("KEY", environment={}, folder=folder) == " line 1\nline 2 \n"


@pytest.mark.parametrize("content", [b"", b"\n", b"a\0b", b"x" * 70_000])
def test_a_secret_that_is_empty_too_long_or_holds_a_nul_is_refused_even_where_the_environment_has_one(
    content: bytes, places: tuple[Path, Path]
) -> None:
    _, folder = places
    (folder / "TOKEN").write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"TOKEN.* longer than"):
        read_secret("TOKEN", environment={"TOKEN": "other"}, folder=folder)


@pytest.mark.parametrize("environment", [{}, {"TOKEN": ""}])
def test_a_secret_found_nowhere_is_refused_with_every_place_looked_in(
    environment: dict[str, str], places: tuple[Path, Path]
) -> None:
    credentials, folder = places
    with pytest.raises(ConfigurationError) as refused:
        read_secret("TOKEN", environment={**environment, "CREDENTIALS_DIRECTORY": str(credentials)}, folder=folder)
    for place in (f"{credentials}/TOKEN", f"{folder}/TOKEN", "$TOKEN of the engine"):
        assert place in str(refused.value)


def test_a_secret_file_that_cannot_be_read_is_an_error_and_not_passed_over(places: tuple[Path, Path]) -> None:
    _, folder = places
    (folder / "TOKEN").mkdir()
    (folder / "BINARY").write_bytes(b"\xff\xfe")

    for name in ("TOKEN", "BINARY"):
        with pytest.raises(ConfigurationError, match=f"the secret {name} cannot be read from {folder}/{name}"):
            read_secret(name, environment={name: "other"}, folder=folder)
