"""What `make run` does: a small fleet of real git repos below .run/, and the engine that keeps it in order.

The fleet is made once and kept; each start adds a commit to every other remote, so that there is news to
fetch. Nothing outside .run/ is touched.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / ".run"
FLEET = RUN / "fleet"
CONFIG = RUN / "activity-core.toml"
COMMAND = Path(sys.executable).parent / "activity-core"
REPOS = ("atlas", "beacon", "cargo-bay", "dovetail", "ember", "foundry")
IDENTITY = {
    "GIT_AUTHOR_NAME": "Fleet Builder",
    "GIT_AUTHOR_EMAIL": "fleet@example.org",
    "GIT_COMMITTER_NAME": "Fleet Builder",
    "GIT_COMMITTER_EMAIL": "fleet@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


def git(folder: Path, *arguments: str) -> None:
    """Runs git quietly; its message goes to stderr when it fails."""
    subprocess.run(["git", *arguments], cwd=folder, env={**os.environ, **IDENTITY}, check=True)


def make_repo(name: str) -> None:
    """A bare remote with some history, a work tree that pushes to it, and the clone that is maintained."""
    remote, work, clone = FLEET / "remotes" / f"{name}.git", FLEET / "work" / name, FLEET / "clones" / name
    if clone.exists():
        return
    for folder in (remote.parent, work.parent, clone.parent):
        folder.mkdir(parents=True, exist_ok=True)
    git(FLEET, "init", "--quiet", "--bare", "--initial-branch=main", str(remote))
    git(FLEET, "init", "--quiet", "--initial-branch=main", str(work))
    git(work, "remote", "add", "origin", str(remote))
    for number in range(1, 6):
        add_commit(name, f"Write page {number}")
    git(FLEET, "clone", "--quiet", str(remote), str(clone))


def add_commit(name: str, subject: str) -> None:
    """One more commit on the remote, by way of the work tree."""
    work = FLEET / "work" / name
    with (work / "pages.md").open("a", encoding="utf-8") as file:
        file.write(f"- {subject}\n")
    git(work, "add", "pages.md")
    git(work, "commit", "--quiet", "--message", subject)
    git(work, "push", "--quiet", "origin", "HEAD:main")


def main() -> None:
    """Makes what is missing, says where things are, and becomes the engine."""
    for name in REPOS:
        make_repo(name)
    for name in REPOS[::2]:
        add_commit(name, "Write what is new since the last start")
    CONFIG.write_text(
        f'state_dir = "{RUN / "state"}"\ndefinitions = ["{ROOT / "activity-definitions"}"]\n\n'
        f'[environment]\nFLEET_HOME = "{FLEET}"\n',
        encoding="utf-8",
    )
    shown = COMMAND.relative_to(ROOT)
    print(f"{len(REPOS)} git repos in {FLEET.relative_to(ROOT)}: remotes, and clones that are kept in order")
    print("while this runs, or afterwards, look at it from another terminal:")
    for words in ("history", "logs fleet.fetch", "explain fleet.fsck", "next", "run fleet.gc"):
        print(f"  {shown} --config .run/activity-core.toml {words}")
    print("save a change to a file in activity-definitions/ and it is in force within a second\n", flush=True)
    os.execv(COMMAND, [str(COMMAND), "--config", str(CONFIG), "serve", "--live", "--run-now"])


if __name__ == "__main__":
    main()
