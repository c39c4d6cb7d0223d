"""The fleet of `make run`: real git repos with remotes, one for each thing that can be the matter with a repo."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class Plan:
    """A workplan: id, title, status, and its tasks as (status, title)."""

    id: str
    title: str
    status: str
    tasks: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """The file."""
        parts = [
            f"---\nid: {self.id}\ntype: workplan\ntitle: {self.title}\nstatus: {self.status}\n---\n\n# {self.title}\n"
        ]
        for number, (status, title) in enumerate(self.tasks, 1):
            parts.append(f"\n## {title}\n\n```task\nid: T{number:02}\nstatus: {status}\n```\n")
        return "".join(parts)


PLANS = {
    "atlas": (
        Plan(
            "ATL-WP-0001", "Redraw the coast", "active", (("done", "Survey"), ("progress", "Draw"), ("todo", "Print"))
        ),
        Plan("ATL-WP-0002", "Index of rivers", "proposed", (("wait", "Collect names"),)),
    ),
    "beacon": (Plan("BEA-WP-0001", "New lamp", "active", (("todo", "Order the lens"), ("wait", "Mount it"))),),
    "cargo-bay": (Plan("CAR-WP-0001", "Stow by weight", "blocked", (("wait", "Weigh everything"),)),),
    "dovetail": (Plan("DOV-WP-0001", "Joints by hand", "active", (("todo", "Sharpen"), ("todo", "Cut"))),),
    "ember": (
        Plan("EMB-WP-0001", "Rebuild the hearth", "finished", (("done", "Lay bricks"), ("todo", "Sweep the floor"))),
        Plan("EMB-WP-0002", "Coal cellar", "archived", (("progress", "Clear it"), ("cancelled", "Paint it"))),
    ),
    "foundry": (Plan("FOU-WP-0001", "Cast the bell", "active", (("progress", "Make the mould"), ("wait", "Pour"))),),
    "granite": (Plan("GRA-WP-0001", "Split the block", "active", (("done", "Drill"), ("todo", "Wedge"))),),
}


class Fleet:
    """The folders of the fleet: remotes, a work tree that pushes to each, and the clones the hub keeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remote(self, name: str) -> Path:
        """The bare repo."""
        return self.folder / "remotes" / f"{name}.git"

    def work(self, name: str) -> Path:
        """Where somebody else works and pushes."""
        return self.folder / "work" / name

    def clone(self, name: str) -> Path:
        """The clone on this machine, registered with the hub."""
        return self.folder / "clones" / name

    def make(self) -> bool:
        """Makes the fleet, from nothing if it was left half made; False when it was there."""
        complete = self.folder / ".complete"
        if complete.exists():
            return False
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in PLANS:
            for folder in (self.remote(name), self.work(name), self.clone(name)):
                folder.parent.mkdir(parents=True, exist_ok=True)
            git(self.folder, "init", "--quiet", "--bare", "--initial-branch=main", str(self.remote(name)))
            git(self.folder, "init", "--quiet", "--initial-branch=main", str(self.work(name)))
            git(self.work(name), "remote", "add", "origin", str(self.remote(name)))
            for plan in PLANS[name]:
                self._write(self.work(name), plan.id, plan.text())
            self.push(name, "Write the plans")
            git(self.folder, "clone", "--quiet", str(self.remote(name)), str(self.clone(name)))
        return True

    def finish(self) -> None:
        """Notes that the fleet is whole."""
        (self.folder / ".complete").touch()

    def push(self, name: str, subject: str) -> None:
        """Commits what the work tree holds, and pushes it."""
        git(self.work(name), "add", "--all")
        git(self.work(name), "commit", "--quiet", "--message", subject)
        git(self.work(name), "push", "--quiet", "origin", "HEAD:main")

    def disturb(self) -> None:
        """What happened since the hub last looked: news, edits in progress, a broken file, diverged history."""
        self._edit("atlas", "ATL-WP-0001", "status: progress", "status: done")
        self.push("atlas", "Finish the drawing")

        self._edit("beacon", "BEA-WP-0001", "status: todo", "status: progress")
        self.push("beacon", "Order the lens")
        plan = self.clone("beacon") / "workplans" / "BEA-WP-0001.md"
        plan.write_text(plan.read_text(encoding="utf-8") + "\nA thought, not committed yet.\n", encoding="utf-8")

        self._write(self.work("cargo-bay"), "notes", "Pushed by somebody else.\n")
        self.push("cargo-bay", "Write notes")
        (self.clone("cargo-bay") / "mine.txt").write_text("Committed here, never pushed.\n", encoding="utf-8")
        git(self.clone("cargo-bay"), "add", "mine.txt")
        git(self.clone("cargo-bay"), "commit", "--quiet", "--message", "Work on my own")

        self._edit("dovetail", "DOV-WP-0001", "id: T02\nstatus: todo", "id: T02\n status: todo")
        self.push("dovetail", "Tidy up the second task")

        git(self.clone("granite"), "checkout", "--quiet", "-b", "experiment")

    def _write(self, folder: Path, name: str, text: str) -> None:
        path = folder / "workplans" / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _edit(self, name: str, plan: str, old: str, new: str) -> None:
        path = self.work(name) / "workplans" / f"{plan}.md"
        path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
