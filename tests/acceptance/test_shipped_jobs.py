"""The definitions in activity-definitions/, run by a real engine beside a real hub."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.homes import CLEAN, COMMAND, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
HUB = Path(sys.executable).parent / "state-hub"
SWEEP = "the-custodian.state-hub-consistency-sweep"
PER_REPO = "the-custodian.state-hub-consistency-sweep-per-repo"
IDENTITY = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}
PLAN = (
    "---\nid: {name}-WP-0001\ntype: workplan\ntitle: Plan\nstatus: active\n---\n\n```task\nid: T01\nstatus: todo\n```\n"
)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, env={**os.environ, **IDENTITY}, check=True)


class Machine:
    """A hub that serves, its two repos, and the settings of an engine."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.hub_config = folder / "state-hub.toml"
        self.config = folder / "activity-core.toml"
        self.lock = folder / "sweep.lock"
        definitions = folder / "definitions"
        shutil.copytree(ROOT / "activity-definitions", definitions)
        per_repo = definitions / "state-hub-consistency-sweep-per-repo.yaml"
        per_repo.write_text(per_repo.read_text().replace("enabled: false", "enabled: true"))
        self.hub_config.write_text(
            f'state_dir = "{folder}/hub"\nport = {port}\nsweep_lock = "{self.lock}"\ntoken = "a-token-for-tests"\n'
        )
        self.config.write_text(
            f'state_dir = "{folder}/engine"\ndefinitions = ["{definitions}"]\n'
            f'state_hub_url = "http://127.0.0.1:{port}"\nstate_hub_token = "a-token-for-tests"\n\n'
            f'[environment]\nSTATE_HUB_HOME = "{ROOT}"\nSTATE_HUB_CONFIG = "{self.hub_config}"\n'
        )

    def add_repo(self, name: str) -> None:
        remote, clone = self.folder / f"{name}.git", self.folder / name
        git(self.folder, "init", "--quiet", "--bare", "--initial-branch=main", str(remote))
        git(self.folder, "init", "--quiet", "--initial-branch=main", str(clone))
        (clone / "workplans").mkdir()
        (clone / "workplans" / "plan.md").write_text(PLAN.format(name=name.upper()))
        git(clone, "add", "--all")
        git(clone, "commit", "--quiet", "--message", "Write the plan")
        git(clone, "remote", "add", "origin", str(remote))
        git(clone, "push", "--quiet", "origin", "main")
        self.hub("repos", "add", str(clone), "--slug", name)

    def hub(self, *words: str) -> str:
        done = subprocess.run(
            [HUB, "--config", self.hub_config, *words], env=CLEAN, capture_output=True, text=True, check=True
        )
        return done.stdout

    def engine(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(COMMAND), "--config", str(self.config), *words]
        return subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=90, check=False)

    def newest(self, name: str) -> dict[str, object]:
        (run, *_) = json.loads(self.engine("history", name, "--json").stdout)
        assert isinstance(run, dict)
        return run


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    machine = Machine(tmp_path, port)
    for name in ("one", "two"):
        machine.add_repo(name)
    server = subprocess.Popen(
        [HUB, "--config", machine.hub_config, "serve"], env=CLEAN, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def answers() -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        return False

    try:
        wait_for(answers, "the hub")
        yield machine
    finally:
        server.terminate()
        server.wait(30)


def test_a_sweep_that_meets_the_scripts_own_lock_is_skipped_as_locked(machine: Machine) -> None:
    assert machine.engine("run", SWEEP).returncode == 0
    run = machine.newest(SWEEP)
    assert (run["state"], run["reason"]) == ("succeeded", None)
    with machine.lock.open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        machine.engine("run", SWEEP)
    run = machine.newest(SWEEP)
    assert (run["state"], run["reason"], run["exit_status"]) == ("skipped", "locked", 75)


def test_the_sweep_split_per_repo_runs_one_item_for_each(machine: Machine) -> None:
    done = machine.engine("run", PER_REPO)
    assert done.returncode == 0, done.stderr
    parent = machine.newest(PER_REPO)
    assert parent["state"] == "succeeded"
    shown = json.loads(machine.engine("show", str(parent["id"]), "--json").stdout)
    assert {item["item_key"]: item["state"] for item in shown["items"]} == {"one": "succeeded", "two": "succeeded"}
    outputs = [machine.engine("logs", str(item["id"])).stdout for item in shown["items"]]
    assert "C-06 ONE-WP-0001: new" in outputs[0]
    assert "C-06 TWO-WP-0001: new" in outputs[1]
    assert "ONE-WP-0001" in machine.hub("workstreams")


def test_without_a_hub_the_sweep_fails_at_its_context_and_says_why(machine: Machine) -> None:
    text = machine.config.read_text().replace(f":{machine.port}", ":1")
    machine.config.write_text(text)
    machine.engine("run", SWEEP)
    run = machine.newest(SWEEP)
    assert (run["state"], run["stage"], run["reason"]) == ("failed", "context", "context_failed")
