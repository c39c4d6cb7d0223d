"""What can go wrong in the hub, grouped by who must act. Findings about repos are values, not errors."""

from __future__ import annotations


class StateHubError(Exception):
    """The root of every error this package raises on purpose."""


class ConfigurationError(StateHubError):
    """For the operator: settings, folders, permissions, a database that cannot be opened."""


class NotFoundError(StateHubError):
    """For whoever asked: no repo, workstream or task goes by that name."""


class RefusedError(StateHubError):
    """For whoever asked: the request is understood and not allowed; the message says what would be."""


class GitError(StateHubError):
    """git could not do what was asked. `said` is what it gave as the reason, `output` all it printed on stderr.

    `is_passing` is True where trying again later may help: the network, a lock, a timeout.
    """

    def __init__(self, message: str, *, said: str = "", output: str = "", is_passing: bool = False) -> None:
        self.said = said
        self.output = output
        self.is_passing = is_passing
        super().__init__(f"{message}: {said}" if said else message)


class LockLostError(StateHubError):
    """The lock of a repo was taken over while it was being worked on: nothing more may be written for it."""
