"""``state-hub hooks``: the post-commit hook of registered repos."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from state_hub.cli.shared import EXIT_ERROR, Console, echo_json, json_option, table
from state_hub.errors import StateHubError

if TYPE_CHECKING:
    from collections.abc import Callable

    from state_hub.hooks import HookState
    from state_hub.registry import Repo

_HOME = click.option(
    "--home",
    type=click.Path(path_type=Path),
    help="The hub's folder, with its Makefile (default: $STATE_HUB_HOME, or its own).",
)
_ALL = click.option("--all", "all_repos", is_flag=True, help="Every active repo.")


@click.group("hooks")
def hooks_group() -> None:
    """Sync a repo right after each commit, by a post-commit hook."""


def _chosen(console: Console, slugs: tuple[str, ...], *, all_repos: bool) -> list[Repo]:
    from state_hub.registry import RepoStatus
    from state_hub.store import repos

    if bool(slugs) == all_repos:
        raise click.UsageError("give slugs, or --all")
    with console.store() as store, store.reading() as connection:
        if all_repos:
            return repos.list_repos(connection, RepoStatus.ACTIVE)
        return [repos.find_repo(connection, slug) for slug in slugs]


def _each(chosen: list[Repo], act: Callable[[Repo], str]) -> None:
    """Does it to each; what cannot be done for one does not keep the others from it."""
    failed = False
    for repo in chosen:
        try:
            click.echo(f"{repo.slug}: {act(repo)}")
        except StateHubError as failure:
            failed = True
            click.echo(f"{repo.slug}: {failure}", err=True)
    sys.exit(EXIT_ERROR if failed else 0)


@hooks_group.command(
    "install", epilog="\b\nExamples:\n  state-hub hooks install atlas\n  state-hub hooks install --all"
)
@click.argument("slugs", nargs=-1, metavar="[SLUG]...")
@_ALL
@_HOME
@click.option("--dry-run", is_flag=True, help="Say where the block would go; write nothing.")
@click.pass_obj
def install_command(
    console: Console, slugs: tuple[str, ...], all_repos: bool, home: Path | None, dry_run: bool
) -> None:
    """Add our block to the post-commit hook. What is there stays; again without harm."""
    from state_hub.hooks import hook_path, hub_home, install_hook

    folder = hub_home(home)

    def act(repo: Repo) -> str:
        if dry_run:
            return f"would add the block to {hook_path(repo)}"
        state = install_hook(repo, folder)
        return f"installed in {state.path}" + (f" ({state.note})" if state.note else "")

    _each(_chosen(console, slugs, all_repos=all_repos), act)


@hooks_group.command("uninstall", epilog="\b\nExample:\n  state-hub hooks uninstall --all")
@click.argument("slugs", nargs=-1, metavar="[SLUG]...")
@_ALL
@click.pass_obj
def uninstall_command(console: Console, slugs: tuple[str, ...], all_repos: bool) -> None:
    """Remove our block, and nothing else."""
    from state_hub.hooks import uninstall_hook

    _each(
        _chosen(console, slugs, all_repos=all_repos),
        lambda repo: "removed" if uninstall_hook(repo) else "was not installed",
    )


@hooks_group.command("status", epilog="\b\nExample:\n  state-hub hooks status --all")
@click.argument("slugs", nargs=-1, metavar="[SLUG]...")
@_ALL
@_HOME
@json_option
@click.pass_obj
def status_command(console: Console, slugs: tuple[str, ...], all_repos: bool, home: Path | None, as_json: bool) -> None:
    """Where the hook is installed, and whether it is as this version would write it."""
    from state_hub.hooks import hook_state, hub_home

    folder = hub_home(home)
    found: list[HookState] = []
    for repo in _chosen(console, slugs, all_repos=all_repos or not slugs):
        try:
            found.append(hook_state(repo, folder))
        except StateHubError as failure:
            click.echo(f"{repo.slug}: {failure}", err=True)
    if as_json:
        echo_json([_shown(each) for each in found])
        return
    table(("SLUG", "HOOK", "FILE", ""), [(each.slug, _word(each), each.path, each.note) for each in found])


def _word(state: HookState) -> str:
    if not state.is_installed:
        return "not installed"
    return "installed" if state.is_current else "of another version or place; install again"


def _shown(state: HookState) -> dict[str, object]:
    return {
        "slug": state.slug,
        "path": str(state.path),
        "is_installed": state.is_installed,
        "is_current": state.is_current,
        "note": state.note,
    }
