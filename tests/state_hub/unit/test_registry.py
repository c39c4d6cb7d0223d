"""What may be registered: names that git, ssh and the file system can be given without harm."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state_hub.errors import RefusedError
from state_hub.git.clone import glob_expression
from state_hub.registration import check_workplans, slug_of
from state_hub.registry import (
    TASK_ID,
    WORKPLAN_ID,
    check_branch,
    check_remote_url,
    check_slug,
    host_of,
)

ALLOWED = {
    "https://forge.example/a/b.git": "forge.example",
    "https://forge.example": "forge.example",
    "http://forge.example:3000/a/b": "forge.example:3000",
    "HTTPS://Forge.Example/a": "Forge.Example",
    "https://someone@forge.example/a.git": "forge.example",
    "https://[2001:db8::1]/a.git": "[2001:db8::1]",
    "ssh://git@[2001:db8::1]:2222/a.git": "[2001:db8::1]:2222",
    "ssh://git@forge.example:22/a.git": "forge.example:22",
    "ssh://forge.example/~me/a.git": "forge.example",
    "git@forge.example:a/b.git": "forge.example",
    "forge.example:a/b.git": "forge.example",
    "git@forge.example:~me/a.git": "forge.example",
    "git@forge.example:/srv/a.git": "forge.example",
    "/srv/git/a.git": "",
    "/": "",
    "file:///srv/git/a.git": "",
}

REFUSED = [
    "",
    "ext::sh -c 'touch x'",
    "ext::sh",
    "ext::ssh://h/x",
    "EXT::sh",
    "fd::17",
    "fd::17/x",
    "transport::https://h/x",
    "git@h::x",
    "git://forge.example/a",
    "git+ssh://forge.example/a",
    "ftp://forge.example/a",
    "javascript://forge.example/a",
    "--upload-pack=touch",
    "--upload-pack=touch:x",
    "-u",
    "-oProxyCommand=touch:x",
    "-oProxyCommand=touch@h:x",
    "git@-oProxyCommand=touch:x",
    "ssh://-oProxyCommand=touch/x",
    "ssh://-oProxyCommand=touch@h/x",
    "ssh://git@-oProxyCommand=touch/x",
    "ssh://git@-h/x",
    "https://-h/x",
    "git@h:-x",
    "h:--upload-pack=touch",
    "https://user:password@forge.example/a",
    "https://:password@forge.example/a",
    "https://user:@forge.example/a",
    "ssh://user:password@forge.example/a",
    "https://user:pass@word@forge.example/a",
    "https://forge.example/a\nb",
    "https://forge.example/a\n",
    "\nhttps://forge.example/a",
    "https://forge.example/a b",
    "https://forge.example/a\tb",
    "https://forge.example/a\0b",
    "https://forge.example/a\x7f",
    "https://forge.example/a\rb",
    "/srv/a b",
    "/srv/../etc",
    "/..",
    "/srv/..",
    "file:///srv/../etc",
    "file:///..",
    "file://srv/a",
    "file://forge.example/srv/a",
    "file://../a",
    "file://",
    "file://ext::sh",
    "https://",
    "ext://",
    "https:///a",
    "https://forge.example:x/a",
    "https://forge.example:123456/a",
    "https://[::1/a",
    "https://fo rge/a",
    "../a",
    "./a",
    "a/b",
    "a",
    "~/a",
    ":a",
    "git@:a",
    "@h:a",
    "https://" + "a" * 1000,
]


@pytest.mark.parametrize("url", ALLOWED)
def test_plain_remotes_are_allowed_as_they_are_written(url: str) -> None:
    assert check_remote_url(url) == url
    assert host_of(url) == ALLOWED[url]


@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_could_run_something_or_carry_a_secret_is_refused(url: str) -> None:
    with pytest.raises(RefusedError):
        check_remote_url(url)


@pytest.mark.parametrize("url", ["file://git@h:p", "file://https://h/x", "file://file:///x", "file://ssh://h/x"])
def test_a_file_url_holds_an_absolute_path_and_nothing_else(url: str) -> None:
    with pytest.raises(RefusedError):
        check_remote_url(url)


@pytest.mark.parametrize("url", ["https://user:s3cret@forge.example/a", "ssh://u:s3cret@h/x", "https://u:s3cret@h"])
def test_a_refused_password_is_not_repeated(url: str) -> None:
    with pytest.raises(RefusedError) as refused:
        check_remote_url(url)
    assert "s3cret" not in str(refused.value)


pieces = st.sampled_from(["https", "ssh", "file", "ext", "://", "::", ":", "/", "//", "@", "-o", "--", "-"])
pieces |= st.sampled_from(
    ["h", "u", "p", "..", ".", "[", "]", "%2e", "~", "22", "a.git", "é", "?", "#", "\\", "\n", " "]
)


@settings(deadline=None, max_examples=200)
@given(st.lists(pieces, max_size=8).map("".join))
def test_what_is_allowed_can_be_taken_for_neither_option_nor_helper(url: str) -> None:
    try:
        allowed = check_remote_url(url)
    except RefusedError:
        return
    assert not allowed.startswith("-")
    assert not any(ord(character) <= 32 for character in allowed)
    head = allowed.split("/")[0]
    assert "::" not in head, "git would start a remote helper"
    host = host_of(allowed)
    assert not host.startswith("-") and "@" not in host
    if "://" in allowed:
        assert allowed.split("://")[0].lower() in {"https", "http", "ssh", "file"}
        account = allowed.split("://", 1)[1].split("/")[0].rpartition("@")[0]
        assert ":" not in account and not account.startswith("-")


# -- branches --

ODD = [
    "main",
    "release/2.0",
    "a",
    "HEAD",
    "a@b",
    "@{-1}",
    "a@{b",
    "{",
    "-a",
    "a-",
    ".a",
    "a.",
    "a..b",
    "a/.b",
    "a./b",
    "a.lock",
    "a.lock/b",
    "a.lockb",
    ".lock",
    "a//b",
    "/a",
    "a/",
    "a b",
    "a\tb",
    "a\x7fb",
    "a~b",
    "a^b",
    "a:b",
    "a?b",
    "a*b",
    "a[b",
    "a\\b",
    "a]b",
    "é",
    "refs/heads/main",
    "refs/heads/HEAD",
    "HEAD/a",
    "a/HEAD",
    "a/-b",
    "a\n",
    "--upload-pack=x",
    "FETCH_HEAD",
]
branch_parts = st.sampled_from(["a", "main", "HEAD", "/", "/", ".", "..", ".lock", "-", "1"])
branch_parts |= st.sampled_from(["@", "{", "@{", "~", "^", ":", "é", "\\", "]", " "])
branch_names = st.lists(branch_parts, min_size=1, max_size=5).map("".join)


def is_branch_to_git(name: str) -> bool:
    asked = subprocess.run(["git", "check-ref-format", "--branch", name], capture_output=True, check=False, cwd="/")
    return asked.returncode == 0


def is_accepted(name: str) -> bool:
    try:
        return check_branch(name) == name
    except RefusedError:
        return False


@pytest.mark.parametrize("name", ODD)
def test_a_branch_name_is_judged_as_git_judges_it(name: str) -> None:
    assert is_accepted(name) == is_branch_to_git(name)


@settings(deadline=None, max_examples=150)
@given(branch_names)
def test_every_branch_name_we_accept_git_accepts(name: str) -> None:
    if is_accepted(name):
        assert is_branch_to_git(name), name


@pytest.mark.parametrize("name", ["", "@", "a\0b", "a" * 201])
def test_branch_names_that_mean_something_else_or_nothing_are_refused(name: str) -> None:
    assert not is_accepted(name)


# -- slugs and ids --


@pytest.mark.parametrize("slug", ["a", "state-hub", "a.b_c-9", "0"])
def test_a_slug_is_small_letters_digits_and_a_few_signs(slug: str) -> None:
    assert check_slug(slug) == slug


@pytest.mark.parametrize(
    "slug", ["", ".", "..", "-a", ".a", "_a", "A", "a/b", "a b", "a*", "a\n", "é", "a.", "a.git", "a" * 101, "a\0"]
)
def test_a_slug_that_is_an_option_a_path_or_a_pattern_is_refused(slug: str) -> None:
    with pytest.raises(RefusedError):
        check_slug(slug)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("https://forge.example/a/State-Hub.git", "state-hub"),
        ("git@forge.example:repo.git", "repo"),
        ("git@forge.example:group/repo", "repo"),
        ("/srv/git/My Repo/", "my-repo"),
        ("/srv/git/repo.git/", "repo"),
        ("-._x_.-", "x"),
    ],
)
def test_a_slug_is_made_from_the_last_part_of_a_path_or_url(name: str, slug: str) -> None:
    assert slug_of(name) == slug


@given(st.text())
def test_a_slug_made_from_any_text_is_one_or_refused(name: str) -> None:
    try:
        made = slug_of(name)
    except RefusedError:
        return
    assert check_slug(made) == made


@pytest.mark.parametrize("name", ["CUST-WP-0040", "WP-001", "A-B-C-WP-123456"])
def test_workplan_ids_have_up_to_three_prefixes(name: str) -> None:
    assert WORKPLAN_ID.fullmatch(name)


@pytest.mark.parametrize(
    "name",
    ["WP-01", "wp-001", "A-B-C-D-WP-001", "CUST-WP-0040\n", "CUST-WP-٠٠٤٠", "1A-WP-001", "-WP-001", "WP-1234567"],
)
def test_other_workplan_ids_are_none(name: str) -> None:
    assert not WORKPLAN_ID.fullmatch(name)


def test_task_ids_have_two_to_four_digits() -> None:
    assert [bool(TASK_ID.fullmatch(name)) for name in ("T1", "T01", "T0001", "T00001", "t01", "T01\n", "T٠١")] == [
        False,
        True,
        True,
        False,
        False,
        False,
        False,
    ]


# -- globs --


def matches(pattern: str, path: str) -> bool:
    """Globs said again, one character at a time."""
    if not pattern:
        return not path
    if pattern.startswith("**/"):
        if matches(pattern[3:], path):
            return True
        first, slash, rest = path.partition("/")
        return bool(first and slash) and matches(pattern, rest)
    if pattern.startswith("**"):
        return any(matches(pattern[2:], path[start:]) for start in range(len(path) + 1))
    if pattern[0] == "*":
        end = path.find("/") if "/" in path else len(path)
        return any(matches(pattern[1:], path[start:]) for start in range(end + 1))
    if not path or (pattern[0] == "?" and path[0] == "/"):
        return False
    return pattern[0] in ("?", path[0]) and matches(pattern[1:], path[1:])


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from(["a", "b", "/", "*", "**/", "?", ".", "["]), max_size=6).map("".join),
    st.lists(st.sampled_from(["a", "b", "a/", ".", "["]), max_size=6).map("".join),
)
def test_a_glob_matches_what_its_rules_say(pattern: str, path: str) -> None:
    if "***" in pattern:
        return
    assert bool(glob_expression(pattern).fullmatch(path)) == matches(pattern, path)


@pytest.mark.parametrize("pattern", ["workplans/**/*.md", "*.md", "**/*.md", "a?c.md", "a..b/*.md"])
def test_a_glob_within_the_repo_is_kept(pattern: str) -> None:
    assert check_workplans(pattern) == pattern


@pytest.mark.parametrize(
    "pattern", ["", "/etc/*.md", "../*.md", "a/../b.md", "a/..", "a\0.md", "*" * 7, "a" * 201, "*a*b*c*d*e*f*.md"]
)
def test_a_glob_that_leaves_the_repo_or_costs_too_much_is_refused(pattern: str) -> None:
    with pytest.raises(RefusedError):
        check_workplans(pattern)
