"""Every command of ``state-hub`` as a person types it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import pytest
from tests.state_hub.fleet import CLEANUP, HUB, SWEEP, git, plan

from state_hub import __version__
from state_hub.cli import group, main
from state_hub.cli.cleaning import cleanup_command
from state_hub.cli.sweeping import sweep_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.state_hub.fleet import Fleet


def _commands(command: click.Command, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield names, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from _commands(below, *names, name)


ALL = dict(_commands(group))


@pytest.mark.parametrize("names", ALL, ids=" ".join)
def test_each_command_explains_itself_with_an_example(names: tuple[str, ...]) -> None:
    command = ALL[names]
    with pytest.raises(SystemExit) as ended:
        group([*names, "--help"], prog_name="state-hub")
    assert ended.value.code == 0
    assert command.help and command.help.strip().endswith((".", "yours"))
    assert command.epilog is not None and "Example" in command.epilog
    examples = [line.strip() for line in command.epilog.splitlines() if line.startswith("  ")]
    assert examples
    known = {option for param in command.params for option in param.opts}
    for example in examples:
        assert re.search(rf"state-hub {' '.join(names)}\b|scripts/\w+\.py", example), example
        if example.startswith("curl"):
            continue
        used = re.findall(r"(?<!\S)--?[a-z][a-z-]*", example)
        assert set(used) <= known | {"--help"}, example


def test_the_scripts_are_the_commands(fleet: Fleet) -> None:
    for script, command in ((SWEEP, sweep_command), (CLEANUP, cleanup_command)):
        done = fleet.command(*script, "--help")
        assert done.returncode == 0
        assert command.help is not None
        assert " ".join(command.help.split())[:40] in " ".join(done.stdout.split())


Typed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def typed(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """The entry point with these arguments, without the start of a process for each of the many."""
    monkeypatch.setenv("STATE_HUB_CONFIG", str(fleet.folder / "state-hub.toml"))
    monkeypatch.chdir(fleet.folder)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["state-hub", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        status = ended.value.code or 0
        assert isinstance(status, int)
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return run


def test_a_tour_of_the_hub(fleet: Fleet, typed: Typed) -> None:
    project = fleet.add("repo-9")
    state = fleet.folder / "other"
    fleet.write_settings(state_dir=str(state), database_url="")

    def hub(*arguments: str, status: int = 0) -> str:
        done = typed(*arguments)
        assert done.returncode == status, done.stderr
        assert status != 0 or done.stderr == ""
        return done.stdout if status == 0 else done.stderr

    def values(*arguments: str) -> Any:
        return json.loads(hub(*arguments, "--json"))

    assert __version__ in hub("--version")
    assert "registered repo-9: main of" in hub("repos", "add", str(project.clone))
    assert (
        values("repos", "add", f"file://{project.remote}", "--slug", "made", "--branch", "main")["is_managed"] is True
    )
    assert "repo-9: changed" in hub("sweep", "--repo", "repo-9", "--remote")
    hub("sweep", "--all", "--remote")
    assert [(each["repo"], each["check"]) for each in values("findings")] == [("made", "C-04")]
    assert "C-04" in hub("findings", "--repo", "made")
    hub("repos", "archive", "made")
    assert [each["slug"] for each in values("repos", "list")] == ["repo-9"]
    assert [each["slug"] for each in values("repos", "list", "--status", "all")] == ["made", "repo-9"]
    assert "repo-9" in hub("repos", "list")
    shown = values("repos", "show", "repo-9")
    assert shown["repo"]["base_commit"] == project.tip
    assert "FLEET-WP-0009 active" in hub("repos", "show", "repo-9")
    assert [each["id"] for each in values("workstreams", "--status", "active")] == ["FLEET-WP-0009"]
    assert "FLEET-WP-0009" in hub("workstreams")
    assert [each["id"] for each in values("tasks", "--workstream", "FLEET-WP-0009")] == ["T01", "T02"]
    assert "FLEET-WP-0009/T01" in hub("tasks", "--status", "todo")
    assert "FLEET-WP-0009/T01 is done" in hub("set-status", "FLEET-WP-0009/T01", "done")
    assert "to be written back" in hub("tasks")
    assert values("status")["pending_writebacks"] == 1
    assert "2 workstream" not in hub("rebuild", "repo-9", "--dry-run")
    assert "--discard" in hub("rebuild", "repo-9", "--yes", status=1)
    hub("sweep", "--all", "--remote")
    assert b"id: T01\nstatus: done" in project.read("workplans/repo-9.md")
    (written,) = values("writebacks")
    assert (written["workplan_id"], written["task_id"], written["state"]) == ("FLEET-WP-0009", "T01", "pushed")
    assert "todo → done" in hub("writebacks", "--repo", "repo-9")
    hub("set-status", "FLEET-WP-0009", "finished")
    assert "would cancel FLEET-WP-0009/T02" in hub("cleanup", "--dry-run")
    assert "1 task(s) cancelled" in hub("cleanup")
    assert [each["subject"] for each in values("outbox")] == ["FLEET-WP-0009/T02"]
    assert "org.statehub.task.stale" in hub("outbox")
    assert values("outbox", "--sent") == []
    assert [each["kind"] for each in values("sweeps", "-n", "2")] == ["remote all", "remote all"]
    assert "remote all" in hub("sweeps")
    assert [each["id"] for each in values("checks")] == [f"C-{number:02d}" for number in range(1, 17)]
    assert "C-16 pull-gate" in hub("checks")
    assert "status:             ok" in hub("status")
    token = hub("token").strip()
    assert len(token) > 30 and hub("token").strip() == token
    assert (state / "token").stat().st_mode & 0o777 == 0o600
    assert [each["slug"] for each in values("hooks", "status")] == ["repo-9"]
    hub("sweep", "--all", "--remote")
    assert "repo-9: changed" in hub("rebuild", "repo-9", "--yes")
    assert [each["id"] for each in values("workstreams", "--status", "finished")] == ["FLEET-WP-0009"]
    assert values("findings", "--closed", "--check", "C-04") == []


def test_workplans_are_started_and_checked(fleet: Fleet, typed: Typed) -> None:
    made = typed("workplan", "new", "FLEET-WP-0042", 'Say "no" \\ to: #tabs')
    assert made.returncode == 0, made.stderr
    path = fleet.folder / "workplans" / "FLEET-WP-0042.md"
    assert typed("workplan", "lint", str(path)).returncode == 0
    assert typed("workplan", "lint").returncode == 0
    again = typed("workplan", "new", "FLEET-WP-0042", "Again")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    for name, title in (("wp-1", "x"), ("FLEET-WP-0043", "two\nlines"), ("../FLEET-WP-0043", "x")):
        assert typed("workplan", "new", name, title).returncode == 1
    (fleet.folder / "workplans" / "bad.md").write_text(plan("FLEET-WP-0042").replace("status: todo", "status: tdoo"))
    bad = typed("workplan", "lint")
    assert bad.returncode == 1
    assert re.search(r"bad\.md:14:9: C-03: unknown status 'tdoo'", bad.stdout), bad.stdout
    assert "C-04" in bad.stdout
    found = json.loads(typed("workplan", "lint", "--json").stdout)
    assert sorted(each["check"] for each in found["faults"]) == ["C-03", "C-04"]


ERRORS = [
    ("repos", "show", "nowhere"),
    ("repos", "archive", "nowhere"),
    ("repos", "add", "ext::sh -c x"),
    ("repos", "add", "/nowhere/at/all"),
    ("repos", "add", "."),
    ("sweep", "--repo", "repo-11"),
    ("set-status", "FLEET-WP-0099", "active"),
    ("set-status", "FLEET-WP-0001/T99", "done"),
    ("rebuild", "nowhere", "--yes"),
    ("hooks", "install", "nowhere"),
    ("hooks", "status", "nowhere"),
    ("hooks", "uninstall", "nowhere"),
    ("status", "--url", "http://127.0.0.1:1"),
    ("status", "--url", "nonsense"),
    ("--config", "/nowhere.toml", "status"),
    ("--database-url", "mysql://x/y", "status"),
    ("--database-url", "postgresql://127.0.0.1:1/x", "status"),
    ("--database-url", "postgresql://user:secret@127.0.0.1:1/x", "status"),
    ("--state-dir", "/proc/nowhere", "--database-url", "", "token"),
]


@pytest.mark.parametrize("arguments", ERRORS, ids=" ".join)
def test_what_cannot_be_done_is_told_in_one_line(fleet: Fleet, typed: Typed, arguments: tuple[str, ...]) -> None:
    fleet.add("repo-1")
    done = typed(*arguments)
    assert done.returncode == 1, done
    assert done.stderr.startswith("state-hub: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_wrong_usage_is_exit_status_2(typed: Typed) -> None:
    for arguments in (
        ["nonsense"],
        ["sweep"],
        ["rebuild"],
        ["hooks", "install"],
        ["set-status", "FLEET-WP-0001", "done"],
        ["findings", "--check", "C-99"],
        ["tasks", "--status", "tdoo"],
        ["workplan", "lint", "nowhere.md"],
    ):
        done = typed(*arguments)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


def test_what_files_say_cannot_steer_a_terminal(fleet: Fleet, typed: Typed) -> None:
    project = fleet.add("repo-1", {"workplans/a.md": plan("FLEET-WP-0001", {"T01": "todo"}, status="finished")})
    evil = '"\\e]0;pwned\\a\\e[2J [bold]x[/bold]"'
    text = plan("FLEET-WP-0001", {"T01": "todo"}, status="finished").replace("Plan FLEET-WP-0001", evil)
    project.publish({"workplans/a.md": text.replace("id: T01\n", f"id: T01\ntitle: {evil}\n")})
    project.publish({"workplans/\x1b[31mred.md": "---\nid: [\n---\n"})
    fleet.sweep()
    shown = ""
    for arguments in (["workstreams"], ["tasks"], ["findings"], ["cleanup", "--dry-run"], ["repos", "show", "repo-1"]):
        done = typed(*arguments)
        assert done.returncode == 0
        shown += done.stdout
    assert "\x1b" not in shown and "\x07" not in shown
    assert "[bold]x[/bold]" in shown


def test_a_reader_that_goes_away_is_no_error_to_shout_about(fleet: Fleet) -> None:
    fleet.add("repo-1")
    done = fleet.command("/bin/sh", "-c", f"'{HUB[0]}' checks | head -1")
    assert done.stdout.startswith("C-01")
    assert "Traceback" not in done.stderr


def test_a_rebuild_after_history_was_rewritten(fleet: Fleet, typed: Typed) -> None:
    project = fleet.add("repo-1")
    fleet.sweep()
    git(project.work, "commit", "-q", "--amend", "-m", "Rewritten")
    git(project.work, "push", "-q", "--force", "origin", "HEAD:main")
    typed("sweep", "--all", "--remote")
    assert "C-13" in fleet.checks()
    git(project.clone, "fetch", "-q", "origin")
    git(project.clone, "reset", "-q", "--hard", "origin/main")
    assert typed("rebuild", "--all", "--yes").returncode == 0
    typed("sweep", "--all", "--remote")
    assert fleet.checks() == []
    fleet.assert_agreed()
