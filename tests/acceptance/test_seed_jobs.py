"""The seed's jobs A and B, their YAML unmodified, on the path and port it names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from state_hub.settings import Settings
from state_hub.store.store import Store
from state_hub.store.workstreams import find_task

ROOT = Path(__file__).resolve().parents[2]
SEED = ROOT / "tests" / "seed"
PLAN = """---
id: ONE-WP-0001
type: workplan
title: Plan
status: finished
---

```task
id: T01
status: todo
```
"""
IDENTITY = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Settings, the seed's two definitions, and one registered repo whose remote has news."""
    definitions = tmp_path / "definitions"
    definitions.mkdir()
    for name in ("state-hub-consistency-sweep.yaml", "state-hub-stale-task-cleanup.yaml"):
        shutil.copy(SEED / name, definitions / name)
    (tmp_path / "state-hub.toml").write_text(f'state_dir = "{tmp_path}/hub"\n')
    (tmp_path / "activity-core.toml").write_text(
        f'state_dir = "{tmp_path}/engine"\ndefinitions = ["{definitions}"]\n\n'
        f'[environment]\nSTATE_HUB_CONFIG = "{tmp_path}/state-hub.toml"\n'
    )

    def git(folder: Path, *arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=folder, env={**os.environ, **IDENTITY}, check=True)

    remote, work, clone = tmp_path / "one.git", tmp_path / "work", tmp_path / "one"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(remote))
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(work))
    git(work, "commit", "--quiet", "--allow-empty", "--message", "Begin")
    git(work, "push", "--quiet", str(remote), "main")
    git(tmp_path, "clone", "--quiet", str(remote), str(clone))
    (work / "workplans").mkdir()
    (work / "workplans" / "one.md").write_text(PLAN)
    git(work, "add", "--all")
    git(work, "commit", "--quiet", "--message", "Write the plan")
    git(work, "push", "--quiet", str(remote), "main")
    hub = Path(sys.executable).parent / "state-hub"
    subprocess.run(
        [hub, "--config", tmp_path / "state-hub.toml", "repos", "add", clone, "--slug", "one"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return tmp_path


def test_the_seeds_own_yaml_sweeps_and_cleans_up_from_the_path_it_names(machine: Path) -> None:
    driver = Path(__file__).with_name("seed_machine.py")
    apart = ["unshare", "--mount", "--net"]
    is_allowed = subprocess.run([*apart, "true"], capture_output=True, check=False).returncode == 0
    done = subprocess.run(
        [*apart, sys.executable, driver, ROOT, machine]
        if is_allowed
        else [sys.executable, driver, ROOT, machine, "--in-place"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    sweep = found["the-custodian.state-hub-consistency-sweep"]
    cleanup = found["the-custodian.state-hub-stale-task-cleanup"]

    (run,) = sweep["runs"]
    assert (run["state"], sweep["status"]) == ("succeeded", 0), sweep
    assert run["context"]["hub_health"]["status"] == "ok"
    assert run["rule"] == [{"expression": "hub_health.status == 'ok'", "value": True}]
    assert "pulled 1 commit(s)" in sweep["output"]
    assert "C-06 ONE-WP-0001: new from workplans/one.md" in sweep["output"]

    (run,) = cleanup["runs"]
    assert run["state"] == "succeeded"
    assert "cancelled ONE-WP-0001/T01 (todo, workstream finished)" in cleanup["output"]
    store = Store.open(Settings(state_dir=machine / "hub").database)
    with store.reading() as connection:
        assert find_task(connection, "ONE-WP-0001", "T01").status == "cancelled"
    store.close()
