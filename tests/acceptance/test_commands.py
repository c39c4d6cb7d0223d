"""Every command as a person types it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.homes import wait_for

from activity_core.run import State

if TYPE_CHECKING:
    from tests.acceptance.homes import Home

YEARLY = "trigger: {trigger_type: cron, cron_expression: '@yearly', timezone: Europe/Berlin}\n"
ECHO = YEARLY + "instruction: {kind: shell, cmd: 'echo hello; echo problem >&2'}\n"


def test_run_without_an_engine_runs_right_here_and_passes_the_outcome_on(home: Home) -> None:
    home.define("t.good", ECHO)
    home.define("t.bad", YEARLY + "instruction: {kind: shell, cmd: exit 3}\n")
    good = home.run("run", "good")
    assert (good.returncode, good.stdout) == (0, "hello\n")
    assert "problem" in good.stderr
    bad = home.run("run", "t.bad", "--json")
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["exit_status"] == 3


def test_run_with_an_engine_is_done_by_it_and_followed_from_here(home: Home) -> None:
    home.define("t.good", ECHO)
    with home.serving() as process:
        done = home.run("run", "t.good")
        assert (done.returncode, done.stdout) == (0, "hello\n")
        row = home.ledger().history()[0]
        assert row.engine_id == 1
        assert row.asked_by
        assert process.poll() is None


def test_cancel_ends_a_run_and_all_its_processes(home: Home) -> None:
    home.define("t.long", YEARLY + "instruction: {kind: shell, cmd: 'sleep 100 & sleep 100', kill_grace: 1s}\n")
    with home.serving():
        home.run("run", "t.long", "--detach", check=True)
        ledger = home.ledger()
        wait_for(lambda: ledger.history(states=[State.RUNNING]), "the run to start")
        assert home.run("cancel", "1").returncode == 0
        wait_for(lambda: ledger.history(states=[State.CANCELLED]), "the run to be cancelled")
        again = home.run("cancel", "1")
        assert again.returncode == 1
        assert "was over already" in again.stderr


def test_logs_follow_a_run_until_it_ends(home: Home) -> None:
    home.define("t.slow", YEARLY + "instruction: {kind: shell, cmd: 'for n in 1 2 3; do echo $n; sleep 0.4; done'}\n")
    with home.serving():
        home.run("run", "t.slow", "--detach", check=True)
        assert home.run("logs", "1", "-f").stdout == "1\n2\n3\n"
        assert home.run("logs", "t.slow").stdout == "1\n2\n3\n"


def test_what_commands_print_cannot_steer_a_terminal_and_is_kept_exactly(home: Home) -> None:
    home.define("t.wild", YEARLY + "instruction: {kind: shell, cmd: \"printf '\\\\033[2J<script>\\\\377\\\\n'\"}\n")
    home.run("run", "t.wild", check=True)
    shown = home.run("logs", "1").stdout
    assert "\x1b" not in shown
    assert "<script>" in shown
    assert home.ledger().read_output(1)[0][4] == b"\x1b[2J<script>\xff\n"


def test_a_secret_shows_up_nowhere(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hunter2-is-secret"
    folder = home.folder / "secrets"
    folder.mkdir()
    (folder / "HUB_TOKEN").write_text(secret + "\n")
    config = home.folder / "activity-core.toml"
    config.write_text(f'secrets_dir = "{folder}"\n')
    home.define(
        "t.tells",
        YEARLY + "instruction: {kind: shell, secrets: [HUB_TOKEN], cmd: 'echo $HUB_TOKEN; printf hunter2-;"
        " sleep 0.1; printf is-secret; echo $HUB_TOKEN >&2; exit 1'}\n",
    )
    done = home.run("--config", str(config), "run", "t.tells")
    assert done.returncode == 1
    everything = done.stdout + done.stderr
    for arguments in (["history", "--json"], ["show", "1"], ["explain", "1"], ["logs", "1", "--json"]):
        everything += home.run(*arguments).stdout
    assert secret not in everything
    assert "[redacted]" in everything
    stored = b"".join(path.read_bytes() for path in home.state.iterdir() if path.is_file())
    assert secret.encode() not in stored


def test_a_missing_secret_is_a_failed_run_that_names_it(home: Home) -> None:
    home.define("t.a", YEARLY + "instruction: {kind: shell, secrets: [NO_SUCH_TOKEN], cmd: 'true'}\n")
    assert home.run("run", "t.a").returncode == 1
    assert "the secret NO_SUCH_TOKEN was not found" in home.run("explain", "1").stdout


def test_pause_and_resume_say_what_they_did(home: Home) -> None:
    home.define("t.a", ECHO)
    home.run("run", "t.a", check=True)
    assert "is paused" in home.run("pause", "a", "--reason", "testing", check=True).stdout
    assert "already" in home.run("pause", "a").stderr
    assert "is paused since" in home.run("explain", "t.a").stdout
    assert "paused" in home.run("list").stdout
    assert "runs again" in home.run("resume", "a", check=True).stdout
    assert "not paused" in home.run("resume", "a").stderr


def test_explain_tells_the_whole_chain_on_one_screen(home: Home) -> None:
    home.define(
        "t.rule",
        "trigger: {trigger_type: interval, every: 1s}\ncontext: [{kind: host.status, bind: host}]\n"
        "rule: {when: ['host.cpus >= 1', 'host.cpus > 4096', 'host.disk_free > 0']}\n"
        "instruction: {kind: shell, cmd: 'true'}\n",
    )
    with home.serving():
        ledger = home.ledger()
        wait_for(lambda: ledger.history(states=[State.SKIPPED]), "a slot")
    text = home.run("explain", "t.rule", check=True).stdout
    lines = text.splitlines()
    labels = [line.split(":")[0] for line in lines if ":" in line and not line.startswith(" ")]
    order = ["file", "enabled", "trigger", "slot", "misfire", "overlap", "context", "rule", "outcome"]
    assert [label for label in dict.fromkeys(labels) if label in order] == order
    assert "host.cpus >= 1  →  true" in text
    assert "host.cpus > 4096  →  false" in text
    assert "host.disk_free > 0  →  not asked" in text
    assert "skipped because an expression of the rule was false" in text
    assert len(lines) <= 40


def test_explain_at_a_time_without_a_slot_says_why_there_is_none(home: Home) -> None:
    home.define("t.a", ECHO)
    with home.serving():
        pass
    before = home.run("explain", "t.a", "--at", "2020-01-01", check=True).stdout
    assert "came into force only at" in before
    after = home.run("explain", "t.a", "--at", "2100-06-01T00:00Z", check=True).stdout
    assert "is not yet decided" in after


def test_list_and_next_work_before_any_engine_ran(home: Home) -> None:
    home.define("t.a", ECHO)
    home.define("t.b", "trigger: {trigger_type: interval, every: 1h}\ninstruction: {kind: shell, cmd: 'true'}\n")
    home.define("t.c", "enabled: false\n" + ECHO)
    home.define("t.d", "trigger: {trigger_type: event, event_type: x.y}\ninstruction: {kind: shell, cmd: 'true'}\n")
    found = {entry["id"]: entry["status"] for entry in json.loads(home.run("list", "--json").stdout)}
    assert found == {"t.a": "on", "t.b": "on", "t.c": "disabled", "t.d": "not run yet: trigger_type: event"}
    upcoming = json.loads(home.run("next", "--json", "-n", "3", "--from", "2026-06-01T00:00Z").stdout)
    assert [(entry["id"], entry["slot"]) for entry in upcoming] == [
        ("t.b", f"2026-06-01T0{hour}:00:00Z") for hour in (1, 2, 3)
    ]
    assert not home.state.exists()


def test_validate_names_file_line_and_column_and_fails(home: Home) -> None:
    good = home.define("t.a", ECHO)
    bad = home.define("t.b", ECHO.replace("kind: shell", "kind: shel"))
    done = home.run("validate")
    assert done.returncode == 1
    assert f"ok       {good}: t.a" in done.stdout
    assert f"{bad}:3:21: instruction.kind: found 'shel'; did you mean 'shell'?" in done.stderr
    assert json.loads(home.run("validate", "--json").stdout)["valid"] == 1
    assert home.run("validate", str(good)).returncode == 0


@pytest.mark.parametrize("text", ["..", "../../x", "-1", "1e3", "½", "9" * 30])
def test_a_run_number_that_is_none_is_refused_and_nothing_is_touched(home: Home, text: str) -> None:
    home.define("t.a", ECHO)
    home.run("run", "t.a", check=True)
    for command in ("show", "cancel"):
        done = home.run(command, "--", text)
        assert done.returncode == 2
        assert "activity-core history" in done.stderr


@pytest.mark.parametrize("text", ["../../x", "..", "t.nope", "/etc/passwd"])
def test_an_unknown_definition_is_refused(home: Home, text: str) -> None:
    home.define("t.a", ECHO)
    home.run("run", "t.a", check=True)
    for command in ("explain", "pause", "run", "logs"):
        done = home.run(command, text)
        assert done.returncode == 2
        assert "no definition is called" in done.stderr


def test_commands_that_read_history_say_where_it_would_be(home: Home) -> None:
    done = home.run("history")
    assert done.returncode == 2
    assert "activity-core serve" in done.stderr
    assert not home.state.exists()


def test_prune_asks_for_nothing_in_a_dry_run_and_keeps_the_newest(home: Home) -> None:
    home.define("t.a", ECHO)
    for _ in range(3):
        home.run("run", "t.a", check=True)
    assert "2 runs would be pruned" in home.run("prune", "--keep", "1", "--dry-run", check=True).stdout
    assert "2 runs pruned" in home.run("prune", "--keep", "1", "--yes", check=True).stdout
    assert [row["id"] for row in json.loads(home.run("history", "--json").stdout)] == [3]
    assert "were removed by retention" in home.run("show", "1").stdout


def test_doctor_finds_what_is_wrong_and_says_what_to_do(home: Home) -> None:
    home.define("t.a", ECHO)
    home.define("t.b", "nonsense: 1\n")
    findings = json.loads(home.run("doctor", "--json").stdout)
    wrong = {each["check"] for each in findings if not each["ok"]}
    assert {"definitions", "engine"} <= wrong
    assert all(each["do"] for each in findings if not each["ok"])
    (home.definitions / "t.b.yaml").unlink()
    with home.serving():
        done = home.run("doctor")
        assert done.returncode == 0, done.stdout


def test_the_schema_is_json_and_completion_is_a_script(home: Home) -> None:
    schema = json.loads(home.run("schema", check=True).stdout)
    assert schema["additionalProperties"] is False
    for shell in ("bash", "zsh", "fish"):
        assert "activity-core" in home.run("completion", shell, check=True).stdout


def test_bad_settings_name_the_file_and_the_key(home: Home) -> None:
    config = home.folder / "activity-core.toml"
    config.write_text("max_paralel = 3\n")
    done = home.run("--config", str(config), "list")
    assert done.returncode == 2
    assert f"{config}: unknown setting 'max_paralel'; did you mean 'max_parallel'?" in done.stderr


def test_settings_give_every_command_its_variables(home: Home) -> None:
    config = home.folder / "activity-core.toml"
    config.write_text('[environment]\nSTATE_HUB_HOME = "/srv/hub"\n')
    home.define("t.a", YEARLY + "instruction: {kind: shell, cmd: 'echo $STATE_HUB_HOME; env | sort'}\n")
    shown = home.run("--config", str(config), "run", "t.a", check=True).stdout
    assert shown.startswith("/srv/hub\n")
    names = {line.split("=")[0] for line in shown.splitlines() if "=" in line}
    assert names - {"PWD", "OLDPWD", "_", "SHLVL"} == {
        "PATH", "HOME", "LOGNAME", "USER", "SHELL", "LANG", "STATE_HUB_HOME", "ACTIVITY_ID", "ACTIVITY_RUN_ID",
        "ACTIVITY_SLOT", "ACTIVITY_FENCE", "ACTIVITY_ATTEMPT", "ACTIVITY_INPUT", "ACTIVITY_LEDGER",
    }  # fmt: skip
    assert os.environ.get("STATE_HUB_HOME") is None


def test_run_without_an_engine_is_not_held_up_by_what_waits_for_one(home: Home) -> None:
    home.define(
        "t.a",
        "trigger: {trigger_type: interval, every: 1s, overlap_policy: queue_all, misfire_policy: run_all}\n"
        "instruction: {kind: shell, cmd: 'sleep 2', concurrency: {key: k}}\n",
    )
    with home.serving() as process:
        ledger = home.ledger()
        wait_for(lambda: len(ledger.history(states=[State.PENDING])) >= 2, "a queue")
        process.kill()
        process.wait()
    done = home.run("run", "t.a", timeout_s=30)
    assert done.returncode == 0, done.stderr
    assert len(ledger.history(states=[State.PENDING])) >= 2
