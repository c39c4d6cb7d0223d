"""``state-hub repos``: the registry."""

from __future__ import annotations

from pathlib import Path

import click

from state_hub.cli.shared import Console, echo_json, json_option, now, table, when
from state_hub.registry import DEFAULT_WORKPLANS, RepoStatus


@click.group("repos")
def repos_group() -> None:
    """Register, list and archive repos."""


@repos_group.command(
    "add",
    epilog="\b\nExamples:\n  state-hub repos add ~/src/atlas\n"
    "  state-hub repos add https://forge.example/team/atlas.git --branch main\n"
    "  state-hub repos add ~/src/atlas --slug atlas --workplans 'docs/plans/*.md'",
)
@click.argument("source", metavar="PATH|URL")
@click.option("--slug", help="Its name; else the last part of the remote's URL.")
@click.option("--branch", help="The branch to follow; else the one checked out, or main for a URL.")
@click.option("--workplans", default=DEFAULT_WORKPLANS, show_default=True, help="Glob of the workplan files.")
@json_option
@click.pass_obj
def add_command(
    console: Console, source: str, slug: str | None, branch: str | None, workplans: str, as_json: bool
) -> None:
    """Register a clone that exists, or a URL, which is cloned into the state folder.

    Whoever can push to a registered branch can change the hub's rows: register what you trust.
    """
    from state_hub.registration import Request, register

    path = Path(source).expanduser()
    is_path = path.is_dir() and not _is_bare(path)
    request = Request(
        slug=slug,
        path=path if is_path else None,
        remote_url=None if is_path else source,
        branch=branch,
        workplans=workplans,
    )
    settings = console.settings()
    with console.store(settings, create=True) as store:
        repo = register(request, settings, store, now(), below_roots_only=False)
    if as_json:
        echo_json(repo)
        return
    click.echo(f"registered {repo.slug}: {repo.branch} of {repo.remote_url}, in {repo.path}")
    click.echo(f"next: state-hub sweep --repo {repo.slug} --remote; state-hub hooks install {repo.slug}")


@repos_group.command("list", epilog="\b\nExample:\n  state-hub repos list --status all")
@click.option("--status", type=click.Choice(["active", "archived", "all"]), default="active", show_default=True)
@json_option
@click.pass_obj
def list_command(console: Console, status: str, as_json: bool) -> None:
    """The registered repos, and what came of the last look at each."""
    from state_hub.store import repos, sweeps

    with console.store() as store, store.reading() as connection:
        found = repos.list_repos(connection, None if status == "all" else RepoStatus(status))
        counts = repos.count_workstreams(connection)
        visits = sweeps.last_visits(connection)
    if as_json:
        echo_json(found)
        return
    rows = []
    for repo in found:
        last = visits.get(repo.slug)
        rows.append(
            (
                repo.slug,
                repo.status.value if last is None or repo.status is RepoStatus.ARCHIVED else last.outcome,
                counts.get(repo.id, 0),
                repo.branch,
                when(None if last is None else last.at),
                "" if last is None else last.detail,
            )
        )
    table(("SLUG", "STATUS", "PLANS", "BRANCH", "LAST CHECKED", ""), rows)


@repos_group.command("show", epilog="\b\nExample:\n  state-hub repos show atlas")
@click.argument("slug")
@json_option
@click.pass_obj
def show_command(console: Console, slug: str, as_json: bool) -> None:
    """One repo: where it is, what it holds, what is wrong with it."""
    from state_hub.store import findings, repos, sweeps, workstreams

    with console.store() as store, store.reading() as connection:
        repo = repos.find_repo(connection, slug)
        plans = workstreams.list_workstreams(connection, repo=slug, limit=1000)
        found = findings.list_findings(connection, repo=slug, limit=1000)
        last = sweeps.last_visits(connection).get(slug)
    if as_json:
        echo_json({"repo": repo, "workstreams": plans, "findings": found, "last_visit": last})
        return
    for name, value in (
        ("slug", f"{repo.slug} ({repo.status.value})"),
        ("remote", repo.remote_url),
        ("branch", repo.branch),
        ("clone", repo.path),
        ("workplans", repo.workplans),
        ("base", repo.base_commit or "never synced"),
        ("checked", "never" if last is None else f"{when(last.at)}: {last.outcome} {last.detail}"),
    ):
        click.echo(f"{name + ':':<11}{value}")
    for plan in plans:
        mark = " (to be written back)" if plan.is_pending else ""
        click.echo(f"{'plan:':<11}{plan.id} {plan.status.value}{mark} {plan.path}")
    for each in found:
        place = f" {each.path}:{each.line}:{each.column}" if each.line else ""
        click.echo(f"{'finding:':<11}{each.check} {each.severity.value}{place} {each.message}")


@repos_group.command("archive", epilog="\b\nExample:\n  state-hub repos archive atlas")
@click.argument("slug")
@click.pass_obj
def archive_command(console: Console, slug: str) -> None:
    """Take a repo out of every sweep. Its rows stay; `repos add` takes it back."""
    from state_hub.store import repos

    with console.store() as store, store.writing() as connection:
        repos.archive_repo(connection, slug, now())
    click.echo(f"archived {slug}; `state-hub repos add` on its clone takes it back")


def _is_bare(path: Path) -> bool:
    """A bare repository is somebody's remote, not a clone to work in."""
    return (path / "HEAD").is_file() and (path / "objects").is_dir() and not (path / ".git").exists()
