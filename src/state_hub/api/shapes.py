"""The JSON that goes in and out, and its schema. Names are those of the values in `state_hub.store`."""

# No postponed annotations here and in the routes: pydantic and FastAPI read them when the module is loaded.

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints, WithJsonSchema

from activity_plumbing.clock import Instant, format_instant
from state_hub.checks import Severity
from state_hub.registry import DEFAULT_WORKPLANS, SLUG, TASK_ID, WORKPLAN_ID, RepoStatus, TaskStatus, WorkstreamStatus

BIGGEST = 2**63 - 1
"""The largest number that both databases take."""

Row = TypeVar("Row")
Item = TypeVar("Item")
Cursor = TypeVar("Cursor")

Time = Annotated[
    Instant,
    PlainSerializer(format_instant, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Number = Annotated[int, Field(ge=0, le=BIGGEST)]
Limit = Annotated[int, Field(ge=1, le=1000)]
Slug = Annotated[str, StringConstraints(pattern=f"^{SLUG.pattern}$")]
WorkplanId = Annotated[str, StringConstraints(pattern=f"^{WORKPLAN_ID.pattern}$")]
TaskId = Annotated[str, StringConstraints(pattern=f"^{TASK_ID.pattern}$")]
CheckId = Annotated[str, StringConstraints(pattern="^C-[0-9]{2}$")]
AfterId = Annotated[str, StringConstraints(pattern="^[A-Z0-9-]{0,100}$")]
Line = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""Text without control characters: Postgres takes no NUL, and a log no line ends."""

AbsolutePath = Annotated[str, StringConstraints(max_length=1000, pattern=r"^/[^\x00-\x1f\x7f]*$")]


class Body(BaseModel):
    """What a request brings; anything else in it is refused."""

    model_config = ConfigDict(extra="forbid")


class Registration(Body):
    """A repo to register: exactly one of `path` and `remote_url`. See `state_hub.registration.Request`."""

    slug: Slug | None = None
    path: AbsolutePath | None = None
    remote_url: Line | None = None
    branch: Line | None = None
    workplans: Line = DEFAULT_WORKPLANS


class WorkstreamChange(Body):
    """The one thing of a workstream that may be changed here."""

    status: WorkstreamStatus


class TaskChange(Body):
    """The one thing of a task that may be changed here."""

    status: TaskStatus


class View(BaseModel):
    """Made from the value of the same shape."""

    model_config = ConfigDict(from_attributes=True)


class Problem(BaseModel):
    """What is wrong, and what would be right."""

    detail: str


class Page(BaseModel, Generic[Item, Cursor]):
    """Part of a list. `next`: what to give as `after` (or `before`) for the rest; null at the end."""

    items: list[Item]
    next: Cursor | None


def page(
    rows: Sequence[Row], limit: int, view: Callable[[Row], Item], cursor: Callable[[Row], Cursor]
) -> Page[Item, Cursor]:
    """The page of these rows, of which one more than `limit` was asked for."""
    shown = rows[:limit]
    return Page(items=[view(row) for row in shown], next=cursor(shown[-1]) if len(rows) > limit else None)


class RepoView(View):
    """A registered repo and how it stands. `workplans` is the glob of its workplan files."""

    slug: str
    remote_url: str
    branch: str
    path: str
    workplans: str
    status: RepoStatus
    is_managed: bool
    added_at: Time
    archived_at: Time | None
    base_commit: str | None
    last_checked_at: Time | None
    last_outcome: str | None
    last_detail: str | None
    workstreams: int
    open_findings: int


class WorkstreamView(View):
    """A workstream. `is_pending`: its status is not in the file yet."""

    id: str
    repo: str
    path: str
    title: str
    status: WorkstreamStatus
    is_pending: bool
    file_wins: bool
    depends_on: tuple[str, ...]
    fields: Mapping[str, object]
    status_changed_at: Time
    status_changed_by: str
    updated_at: Time
    removed_at: Time | None


class TaskView(View):
    """A task of a workstream. `number` grows with each new one."""

    number: int
    id: str
    workplan_id: str
    repo: str
    title: str
    status: TaskStatus
    is_pending: bool
    file_wins: bool
    depends_on: tuple[str, ...]
    fields: Mapping[str, object]
    status_changed_at: Time
    status_changed_by: str
    updated_at: Time
    removed_at: Time | None


class FindingView(View):
    """What a check found. `line` and `column` count from 1; 0: not known."""

    id: int
    repo: str
    check: str
    subject: str
    severity: Severity
    message: str
    path: str
    line: int
    column: int
    first_seen_at: Time
    last_seen_at: Time
    closed_at: Time | None


class CheckView(View):
    """A check of the catalogue. `fix`: what the hub does by itself; null where a person must act."""

    id: str
    name: str
    severity: Severity
    explanation: str
    fix: str | None
    advice: str
    is_in_files: bool


class SweepView(View):
    """A sweep. `ended_at` is null while it goes on, and for ever when it was killed."""

    id: int
    kind: str
    by: str
    started_at: Time
    ended_at: Time | None
    planned: int
    checked: int
    failed: int
    outcome: str | None


class SweepDetail(SweepView):
    """A sweep with what came of it, repo by repo where there was news."""

    result: Mapping[str, object]


class WritebackView(BaseModel):
    """What the hub wrote into a file. `task_id` is null for the workstream's own status."""

    repo: str
    workplan_id: str
    task_id: str | None
    path: str
    old: str
    new: str
    commit: str
    state: str
    made_at: Time
    settled_at: Time | None


class OutboxView(View):
    """An event (CloudEvents 1.0 JSON) and when it was sent."""

    id: int
    event_id: str
    type: str
    subject: str
    event: Mapping[str, object]
    created_at: Time
    sent_at: Time | None


class Waiting(BaseModel):
    """Events that wait to be sent, and since when the oldest does."""

    waiting: int
    oldest_at: str | None


class LastSweep(BaseModel):
    """The sweep that began last."""

    id: int
    kind: str
    started_at: str
    ended_at: str | None
    outcome: str | None


class HealthView(BaseModel):
    """`status` is ``ok`` or ``error``, `db` is ``ok`` or what is wrong with it; the rest is known when it is ok."""

    status: str
    db: str
    version: str
    repos: int | None = None
    open_findings: Mapping[str, int] | None = None
    pending_writebacks: int | None = None
    outbox: Waiting | None = None
    last_sweep: LastSweep | None = None
