"""The engine as people run it: one per folder, signals, saves, a full disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

from tests.acceptance.homes import CLEAN, COMMAND, wait_for

from activity_core.run import Kind, State

if TYPE_CHECKING:
    from tests.acceptance.homes import Home

YEARLY = "trigger: {trigger_type: cron, cron_expression: '@yearly'}\n"


def test_a_second_engine_on_one_state_folder_is_refused_and_says_who_holds_it(home: Home) -> None:
    with home.serving() as first:
        second = home.run("serve")
    assert second.returncode == 2
    assert f"pid {first.pid}" in second.stderr
    assert "in use by another engine" in second.stderr


def test_sigterm_lets_a_command_finish_and_leaves_in_good_order(home: Home) -> None:
    home.define("t.a", YEARLY + "instruction: {kind: shell, cmd: 'echo begun; sleep 1; echo done'}\n")
    with home.serving() as process:
        home.run("run", "t.a", "--detach", check=True)
        ledger = home.ledger()
        wait_for(lambda: ledger.history(states=[State.RUNNING]), "the run to start")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    (row,) = ledger.history()
    assert row.state is State.SUCCEEDED
    last = ledger.last_engine()
    assert last is not None
    assert last.stopped_at is not None


def test_a_second_sigterm_ends_commands_at_once(home: Home) -> None:
    home.define(
        "t.a", YEARLY + "instruction: {kind: shell, cmd: \"trap '' TERM; echo begun; sleep 60\", kill_grace: 50s}\n"
    )
    with home.serving() as process:
        home.run("run", "t.a", "--detach", check=True)
        ledger = home.ledger()
        wait_for(lambda: ledger.read_output(1), "the command's first words")
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: b"stopping:" in home.log.read_bytes(), "the first signal to be seen")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    (row,) = ledger.history()
    assert (row.state, row.reason) == (State.INTERRUPTED, "engine_stopped")


def test_a_saved_file_is_in_force_and_a_bad_one_leaves_the_last_good_version(home: Home) -> None:
    path = home.define("t.a", YEARLY + "instruction: {kind: shell, cmd: echo one}\n")
    with home.serving():
        ledger = home.ledger()
        home.define("t.b", YEARLY + "instruction: {kind: shell, cmd: echo b}\n")
        wait_for(lambda: ledger.definition("t.b") is not None, "the new file")
        good = path.read_text()
        path.write_text(good + "instrution: x\n")
        wait_for(lambda: f"{path}:4:1: unknown key 'instrution'" in home.log.read_text(), "the problem in the log")
        assert "did you mean 'instruction'?" in home.log.read_text()
        done = home.run("run", "t.a", check=True)
        assert done.stdout == "one\n"
        assert "is invalid now" in home.run("explain", "t.a").stdout
        path.write_text(good.replace("echo one", "echo two"))
        wait_for(lambda: home.run("run", "t.a").stdout == "two\n", "the mended file")


def test_a_file_replaced_by_rename_was_never_away(home: Home) -> None:
    path = home.define("t.a", YEARLY + "instruction: {kind: shell, cmd: echo one}\n")
    with home.serving():
        ledger = home.ledger()
        fresh = path.with_suffix(".new")
        for number in range(5):
            fresh.write_text(path.read_text().replace("echo one", f"echo one{number}"))
            path.unlink()
            fresh.rename(path)
        wait_for(lambda: home.run("run", "t.a").stdout.startswith("one"), "the definition to answer")
    assert "removed" not in {event.event for event in ledger.catalog_events("t.a", limit=50)}


def test_a_full_disk_loses_no_slot_and_runs_none_twice(home: Home) -> None:
    """The state folder lies on a small file system of its own, in a mount namespace of the engine's own."""
    effects = home.folder / "effects"
    home.state.mkdir()
    home.define(
        "t.a",
        "trigger: {trigger_type: interval, every: 100ms, misfire_policy: run_all}\n"
        "context: [{kind: host.status, bind: host}]\nrule: {when: ['host.cpus > 0']}\n"
        f"instruction: {{kind: shell, cmd: 'echo $ACTIVITY_SLOT >> {effects}; head -c 3000 /dev/urandom | base64'}}\n",
    )
    ready, filled, freed = (home.folder / name for name in ("ready", "filled", "freed"))
    script = (
        f"mount -t tmpfs -o size=1500k tmpfs {home.state} || exit 9\n"
        f"{COMMAND} {' '.join(home.options)} serve & engine=$!\n"
        f"until grep -q SUCCESS-5 {home.folder}/progress 2>/dev/null; do sleep 0.1; done\n"
        f"dd if=/dev/zero of={home.state}/ballast bs=4k 2>/dev/null\n"
        f"touch {filled}\n"
        f"until test -e {freed}; do sleep 0.1; done\n"
        f"rm {home.state}/ballast\n"
        f"until test -e {ready}; do sleep 0.1; done\n"
        f"kill -TERM $engine; wait $engine\n"
        f"{COMMAND} {' '.join(home.options)} history --json --limit 100000 > {home.folder}/history.json\n"
    )
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    with home.log.open("ab") as log:
        process = subprocess.Popen(
            [*unshare, "sh", "-c", script], stdout=log, stderr=log, env=CLEAN, stdin=subprocess.DEVNULL
        )
        wait_for(lambda: effects.exists() and len(effects.read_text().split()) >= 5, "the first runs")
        (home.folder / "progress").write_text("SUCCESS-5")
        wait_for(filled.exists, "the disk to be full")
        wait_for(lambda: b"cannot be written" in home.log.read_bytes(), "the engine to notice")
        freed.touch()
        wait_for(lambda: b"can be written again" in home.log.read_bytes(), "the engine to go on")
        before = len(effects.read_text().split())
        wait_for(lambda: len(effects.read_text().split()) > before + 10, "further runs")
        ready.touch()
        assert process.wait(60) == 0, home.log.read_text()
    rows = [row for row in json.loads((home.folder / "history.json").read_text()) if row["kind"] == Kind.SCHEDULE]
    lines = Counter(effects.read_text().split())
    assert max(lines.values()) == 1
    ran = {row["slot"] for row in rows if row["started_at"] is not None}
    assert set(lines) <= ran
    succeeded = {row["slot"] for row in rows if row["state"] == State.SUCCEEDED}
    assert succeeded <= set(lines)
    from activity_plumbing.clock import parse_instant

    covered: Counter[int] = Counter()
    for row in rows:
        covered.update(range(parse_instant(row["slot"]), parse_instant(row["last_slot"]) + 1, 100_000))
    assert covered == Counter(range(min(covered), max(covered) + 1, 100_000))


def test_an_idle_engine_needs_no_terminal_and_no_home(home: Home) -> None:
    home.define("t.a", YEARLY + "instruction: {kind: shell, cmd: 'echo $HOME $PATH $SHELL'}\n")
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-m", "activity_core", *home.options, "run", "t.a"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout.split()[1:] == ["/usr/local/bin:/usr/bin:/bin", "/bin/sh"]


def test_a_copy_of_a_state_folder_in_use_is_refused(home: Home) -> None:
    home.define("t.a", YEARLY + "instruction: {kind: shell, cmd: 'sleep 60', kill_grace: 1s}\n")
    with home.serving():
        home.run("run", "t.a", "--detach", check=True)
        ledger = home.ledger()
        wait_for(lambda: ledger.history(states=[State.RUNNING]), "the run to start")
        copy = home.folder / "copy"
        shutil.copytree(home.state, copy, ignore=shutil.ignore_patterns("engine.sock"))
        done = home.run("--state-dir", str(copy), "serve")
        assert done.returncode == 2
        assert "is a copy of a state folder" in done.stderr
        assert ledger.history()[0].state is State.RUNNING
        home.run("cancel", "1", check=True)
        wait_for(lambda: ledger.history(states=[State.CANCELLED]), "the run to be cancelled")


def test_a_definitions_folder_that_was_deleted_and_is_back_is_seen(home: Home) -> None:
    home.define("t.a", YEARLY + "instruction: {kind: shell, cmd: echo one}\n")
    with home.serving():
        ledger = home.ledger()
        shutil.rmtree(home.definitions)
        wait_for(lambda: (found := ledger.definition("t.a")) is not None and found.removed_at, "the removal", 30)
        home.definitions.mkdir()
        home.define("t.a", YEARLY + "instruction: {kind: shell, cmd: echo two}\n")
        wait_for(lambda: (found := ledger.definition("t.a")) is not None and not found.removed_at, "the return", 30)


def test_an_input_folder_that_was_cleaned_away_is_made_again(home: Home) -> None:
    home.define("t.a", YEARLY + "instruction: {kind: shell, cmd: 'cat $ACTIVITY_INPUT'}\n")
    with home.serving():
        from activity_core.settings import Settings

        shutil.rmtree(Settings(state_dir=home.state).input_dir(home.ledger().identity()))
        assert '"t.a"' in home.run("run", "t.a", check=True).stdout


def test_sigterm_does_not_wait_for_an_answer_that_does_not_come(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        home.folder.joinpath("c.toml").write_text(f'http_allow = ["{place}"]\nshutdown_grace = "200ms"\n')
        home.define(
            "t.a",
            f"context: [{{kind: http_get, bind: x, url: 'http://{place}/', timeout: 5m}}]\n"
            + YEARLY
            + "instruction: {kind: shell, cmd: 'true'}\n",
        )
        with home.serving(config=home.folder / "c.toml") as process:
            home.run("run", "t.a", "--detach", check=True)
            asked, _ = silent.accept()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            asked.close()
    assert home.ledger().history()[0].state is State.PENDING
