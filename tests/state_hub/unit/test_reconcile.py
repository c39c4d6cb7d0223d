"""The three-way merge against DESIGN 7 said again, and over a small world of files and rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activity_plumbing.yaml_document import Problem
from state_hub.reconcile import (
    AddTask,
    AddWorkstream,
    BotWrite,
    ChangeTask,
    ChangeWorkstream,
    FileEntry,
    Plan,
    Sides,
    TaskRow,
    WorkstreamRow,
    Writeback,
    describe,
    merge_status,
    plain_json,
    reconcile,
)
from state_hub.registry import TaskStatus, WorkstreamStatus
from state_hub.workplan import Fault, Reading, Task, Workplan, read_workplan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from state_hub.checks import Found
    from state_hub.reconcile import Change, Key

TASKS = [status.value for status in TaskStatus]
PLANS = [status.value for status in WorkstreamStatus]
CLOSED = {"done", "cancelled", "finished", "archived"}
PLAN = "CUST-WP-0040"
OTHER = "CUST-WP-0041"


# -- a world of files and rows --


def task(name: str, status: str = "todo", **more: Any) -> Task:
    values: dict[str, Any] = {"title": name, "depends_on": (), "fields": {}, "line": 9, "status_at": (0, 4)}
    return Task(id=name, status=TaskStatus(status), **{**values, **more})


def plan_of(name: str = PLAN, *tasks: Task, status: str = "active", **more: Any) -> Workplan:
    values: dict[str, Any] = {
        "title": "A plan",
        "depends_on": (),
        "fields": {},
        "is_complete": True,
        "line": 2,
        "status_at": (0, 4),
    }
    return Workplan(id=name, status=WorkstreamStatus(status), tasks=tasks, **{**values, **more})


def unreadable(path: str) -> Reading:
    problem = Problem(path=path, line=3, column=1, message="not valid YAML")
    return Reading(workplan=None, faults=(Fault(check="C-02", problem=problem),))


@dataclass
class World:
    """Files by path, and rows; `shown` None: history shows every removal."""

    files: dict[str, Reading] = field(default_factory=dict)
    rows: list[WorkstreamRow] = field(default_factory=list)
    bot_writes: dict[Key, BotWrite] = field(default_factory=dict)
    held_elsewhere: dict[str, str] = field(default_factory=dict)
    shown: frozenset[str] | None = None

    @staticmethod
    def of(*plans: Workplan) -> World:
        """Files and rows that agree."""
        world = World({f"{plan.id}.md": Reading(workplan=plan, faults=()) for plan in plans})
        world.sync()
        return world

    def blob(self, path: str) -> str:
        return f"{hash(repr(self.files[path])):x}"

    def plan(self, *, reads_all: bool = True) -> Plan:
        """`reads_all` False: as a sweep does, files that did not change since their row was read stay unread."""
        known = {row.path: row.blob for row in self.rows if not row.is_removed}
        files = {
            path: FileEntry(
                blob=self.blob(path),
                reading=None if not reads_all and known.get(path) == self.blob(path) else reading,
            )
            for path, reading in self.files.items()
        }
        shown = frozenset(row.id for row in self.rows) if self.shown is None else self.shown
        return reconcile(
            Sides(
                files=files,
                rows=self.rows,
                shown=shown,
                held_elsewhere=self.held_elsewhere,
                bot_writes=self.bot_writes,
            )
        )

    def apply(self, plan: Plan) -> None:
        for change in plan.changes:
            assert describe(change)
            self._apply(change)

    def _apply(self, change: Change) -> None:
        match change:
            case AddWorkstream(path=path, blob=blob, workplan=plan):
                assert plan.id not in {row.id for row in self.rows}, "one row per id"
                row = WorkstreamRow(
                    pk=len(self.rows) + 1,
                    id=plan.id,
                    path=path,
                    blob=blob,
                    title=plan.title,
                    status=plan.status.value,
                    base_status=plan.status.value,
                    file_wins=False,
                    depends_json=plain_json(plan.depends_on),
                    fields_json=plain_json(plan.fields),
                    is_removed=False,
                    tasks=tuple(_task_row(each, place) for place, each in enumerate(plan.tasks)),
                )
                self.rows.append(row)
            case ChangeWorkstream(row=row, values=values):
                self._change(row.id, **values)
            case AddTask(row=row, task=new, position=position):
                held = self.row(row.id)
                assert new.id not in {each.id for each in held.tasks}, "one row per task"
                self._change(row.id, tasks=(*held.tasks, _task_row(new, position)))
            case ChangeTask(workstream=row, row=old, values=values):
                self.set_task(row.id, old.id, **values)

    def _change(self, name: str, **values: Any) -> None:
        self.rows = [replace(row, **values) if row.id == name else row for row in self.rows]

    def set_task(self, plan: str, name: str, **values: Any) -> None:
        tasks = tuple(replace(each, **values) if each.id == name else each for each in self.row(plan).tasks)
        self._change(plan, tasks=tasks)

    def set_plan(self, plan: str, **values: Any) -> None:
        self._change(plan, **values)

    def row(self, name: str = PLAN) -> WorkstreamRow:
        (found,) = (row for row in self.rows if row.id == name)
        return found

    def task_row(self, name: str, plan: str = PLAN) -> TaskRow:
        (found,) = (each for each in self.row(plan).tasks if each.id == name)
        return found

    def write(self, plan: Workplan, path: str | None = None, faults: tuple[Fault, ...] = ()) -> None:
        self.files[path or f"{plan.id}.md"] = Reading(workplan=plan, faults=faults)

    def sync(self) -> Plan:
        plan = self.plan()
        self.apply(plan)
        return plan

    def push(self, writebacks: list[Writeback]) -> None:
        """What the hub does with writebacks: edits the files, and moves the bases after the push."""
        for each in writebacks:
            reading = self.files[each.path]
            assert reading.workplan is not None
            plan = reading.workplan
            if each.task_id is None:
                assert plan.status == each.old
                plan = replace(plan, status=WorkstreamStatus(each.new))
                self.set_plan(each.workplan_id, base_status=each.new)
            else:
                tasks = []
                for one in plan.tasks:
                    if one.id == each.task_id:
                        assert one.status == each.old
                        one = replace(one, status=TaskStatus(each.new))
                    tasks.append(one)
                plan = replace(plan, tasks=tuple(tasks))
                self.set_task(each.workplan_id, each.task_id, base_status=each.new)
            self.files[each.path] = replace(reading, workplan=plan)
            self.bot_writes[each.workplan_id, each.task_id] = BotWrite(old=each.old, new=each.new)
        for row in self.rows:
            if row.path in {each.path for each in writebacks}:
                self.set_plan(row.id, blob=self.blob(row.path))


def _task_row(new: Task, position: int) -> TaskRow:
    return TaskRow(
        pk=0,
        id=new.id,
        title=new.title,
        status=new.status.value,
        base_status=new.status.value,
        file_wins=False,
        position=position,
        depends_json=plain_json(new.depends_on),
        fields_json=plain_json(new.fields),
        is_removed=False,
    )


def found_by(plan: Plan, check: str) -> list[Found]:
    return [each for each in plan.found if each.check == check]


# -- one status --


def rule(base: str | None, file: str, row: str) -> tuple[str, str | None, str | None]:
    """DESIGN 7 again, by who changed what: what both end with, what is written to the file, who lost."""
    file_changed, row_changed = file != base, row != base
    if file == row:
        return row, None, None
    if base is None:
        return file, None, row
    if file_changed and not row_changed:
        return file, None, None
    if row_changed and not file_changed:
        return row, row, None
    if row in CLOSED and file not in CLOSED:
        return row, row, file
    return file, None, row


@pytest.mark.parametrize("known", [TASKS, PLANS], ids=["tasks", "workplans"])
def test_every_combination_of_base_file_and_row_ends_as_the_design_says(known: list[str]) -> None:
    for base, file, row in product([None, *known], known, known):
        merged = merge_status(base=base, file=file, row=row)
        assert (merged.status, merged.write, merged.lost) == rule(base, file, row), (base, file, row)
        assert not merged.file_wins
        if merged.write is None:
            assert merged.base == file == merged.status, "agreed, and remembered as such"
        else:
            assert merged.base != merged.write, "the base of a writeback moves after its push, not before"


@pytest.mark.parametrize("known", [TASKS, PLANS], ids=["tasks", "workplans"])
def test_whoever_wins_was_one_of_the_two_and_the_other_one_is_named(known: list[str]) -> None:
    for base, file, row in product([None, *known], known, known):
        merged = merge_status(base=base, file=file, row=row)
        assert merged.status in (file, row)
        if base is not None and file == base != row:
            assert merged.lost is None, "nothing is lost where one side only changed"
        if base is not None and len({base, file, row}) == 3:
            assert {merged.status, merged.lost} == {file, row}


def test_a_merge_done_again_with_its_outcome_changes_nothing() -> None:
    for base, file, row, file_wins in product([None, *TASKS], TASKS, TASKS, [False, True]):
        first = merge_status(base=base, file=file, row=row, file_wins=file_wins)
        again = merge_status(base=first.base, file=file, row=first.status, file_wins=first.file_wins)
        assert (again.status, again.base, again.file_wins, again.write) == (
            first.status,
            first.base,
            first.file_wins,
            first.write,
        )


def test_a_bot_write_taken_back_makes_the_file_win_until_the_file_changes_to_something_else() -> None:
    bot = BotWrite(old="todo", new="done")
    taken = merge_status(base="done", file="todo", row="done", bot_write=bot)
    assert (taken.status, taken.base, taken.file_wins, taken.write) == ("todo", "todo", True, None)
    again = merge_status(base="todo", file="todo", row="done", file_wins=True, bot_write=bot)
    assert (again.status, again.write, again.is_refused) == ("todo", None, True), "not written a second time"
    moved = merge_status(base="todo", file="progress", row="todo", file_wins=True, bot_write=bot)
    assert (moved.status, moved.file_wins) == ("progress", False)
    later = merge_status(base="progress", file="progress", row="done", bot_write=bot)
    assert later.write == "done"


@given(st.sampled_from(TASKS), st.sampled_from(TASKS), st.sampled_from(TASKS), st.sampled_from(TASKS))
def test_only_the_exact_undoing_of_the_last_bot_write_is_taken_for_one(
    base: str, file: str, old: str, new: str
) -> None:
    if old == new:
        return
    merged = merge_status(base=base, file=file, row=base, bot_write=BotWrite(old=old, new=new))
    assert merged.is_taken_back == ((old, new) == (file, base)), (base, file, old, new)
    assert merged.status == file


# -- one status, through the whole reconciliation --


@pytest.mark.parametrize("base", [None, *TASKS])
def test_the_merge_of_a_task_reaches_row_writeback_and_finding(base: str | None) -> None:
    for file, row in product(TASKS, TASKS):
        world = World.of(plan_of(PLAN, task("T01", file)))
        world.set_task(PLAN, "T01", status=row, base_status=base)
        plan = world.sync()
        status, write, lost = rule(base, file, row)
        assert world.task_row("T01").status == status
        assert [(each.task_id, each.old, each.new) for each in plan.writebacks] == (
            [] if write is None else [("T01", file, write)]
        )
        conflicts = found_by(plan, "C-10")
        assert [each.subject for each in conflicts] == ([] if lost is None else [f"{PLAN}/T01"])
        assert all(lost is not None and lost in each.message and status in each.message for each in conflicts)


@pytest.mark.parametrize("base", [None, *PLANS])
def test_the_merge_of_a_workplan_reaches_row_writeback_and_finding(base: str | None) -> None:
    for file, row in product(PLANS, PLANS):
        world = World.of(plan_of(status=file))
        world.set_plan(PLAN, status=row, base_status=base)
        plan = world.sync()
        status, write, lost = rule(base, file, row)
        assert world.row().status == status
        assert [(each.task_id, each.old, each.new) for each in plan.writebacks] == (
            [] if write is None else [(None, file, write)]
        )
        assert [each.subject for each in found_by(plan, "C-10")] == ([] if lost is None else [PLAN])


@pytest.mark.parametrize("base", TASKS)
def test_an_unread_file_is_merged_as_if_it_had_been_read(base: str) -> None:
    for row in TASKS:
        worlds = [World.of(plan_of(PLAN, task("T01", base))) for _ in range(2)]
        for world in worlds:
            world.set_task(PLAN, "T01", status=row)
        unread, read = worlds[0].plan(reads_all=False), worlds[1].plan()
        assert (unread.changes, unread.writebacks) == (read.changes, read.writebacks)


def test_a_status_that_won_over_a_changed_file_is_written_over_what_the_file_says_also_when_it_stays_unread() -> None:
    for base, file, row in product(TASKS, TASKS, TASKS):
        if rule(base, file, row)[1] is None:
            continue
        world = World.of(plan_of(PLAN, task("T01", base)))
        world.write(plan_of(PLAN, task("T01", file)))
        world.set_task(PLAN, "T01", status=row)
        first = world.sync()  # and the push did not come through
        again = world.plan(reads_all=False)
        assert again.writebacks == first.writebacks, (base, file, row)


def test_what_the_database_lost_to_a_person_s_taking_back_is_named_in_the_finding() -> None:
    world = World.of(plan_of(PLAN, task("T01", "todo")))
    world.set_task(PLAN, "T01", status="cancelled", file_wins=True)
    plan = world.sync()
    assert world.task_row("T01").status == "todo"
    (told,) = found_by(plan, "C-15")
    assert "todo" in told.message and "cancelled" in told.message, told.message


# -- the other fields belong to the file --


def test_every_other_field_follows_the_file() -> None:
    world = World.of(plan_of(PLAN, task("T01"), task("T02")))
    new = plan_of(
        PLAN,
        task("T02", title="Second", depends_on=("T01",), fields={"owner": "a"}),
        task("T01"),
        title="Renamed",
        depends_on=(OTHER,),
        fields={"tags": ["x"], "domain": "é"},
    )
    world.write(new)
    world.sync()
    row = world.row()
    assert (row.title, json.loads(row.depends_json)) == ("Renamed", [OTHER])
    assert json.loads(row.fields_json) == {"tags": ["x"], "domain": "é"}
    second = world.task_row("T02")
    assert (second.title, second.depends_json, second.position) == ("Second", '["T01"]', 0)
    assert json.loads(second.fields_json) == {"owner": "a"}
    assert world.task_row("T01").position == 1


def test_a_changed_title_of_the_row_is_put_back_from_the_file() -> None:
    world = World.of(plan_of(PLAN, task("T01")))
    world.set_plan(PLAN, title="edited in the database")
    world.sync()
    assert world.row().title == "A plan"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=6))
def test_values_kept_as_json_do_not_depend_on_the_order_of_keys(value: object) -> None:
    one, two = {"a": value, "b": 1}, {"b": 1, "a": value}
    assert plain_json(one) == plain_json(two)
    assert json.loads(plain_json(one)) == one


def test_the_fields_of_a_file_become_json_that_any_reader_takes() -> None:
    text = b"---\nid: CUST-WP-0040\ntype: workplan\ntitle: T\nstatus: active\nweight: 1e999\n---\n"
    plan = read_workplan(text, "x.md").workplan
    if plan is not None:  # refusing the number is as good
        json.dumps(json.loads(plain_json(plan.fields)), allow_nan=False)


def test_values_repeated_by_aliases_do_not_swell_into_a_row_many_times_as_large_as_any_file() -> None:
    tens = b"".join(
        b"%c: &%c [%s]\n" % (here, here, b", ".join([b"*%c" % before] * 10))
        for before, here in zip(b"abc", b"bcd", strict=True)
    )
    long = b'a: &a "' + b"x" * 20_000 + b'"\n'
    head = b"---\nid: CUST-WP-0040\ntype: workplan\ntitle: T\nstatus: active\n"
    plan = read_workplan(head + long + tens + b"---\n", "x.md").workplan
    if plan is not None:  # refusing it is as good
        assert len(plain_json(plan.fields)) < 4 << 20


# -- new, moved, copied --


def test_a_new_file_becomes_a_row_with_its_tasks() -> None:
    world = World()
    world.write(plan_of(PLAN, task("T01", "progress"), task("T02", "done"), status="blocked"))
    world.sync()
    assert world.row().status == world.row().base_status == "blocked"
    assert [(each.id, each.status, each.base_status) for each in world.row().tasks] == [
        ("T01", "progress", "progress"),
        ("T02", "done", "done"),
    ]


def test_a_moved_file_is_followed_by_its_id_and_keeps_what_the_database_knew() -> None:
    world = World.of(plan_of(PLAN, task("T01")))
    world.set_task(PLAN, "T01", status="done")
    world.files["archive/elsewhere.md"] = world.files.pop(f"{PLAN}.md")
    plan = world.sync()
    assert world.row().path == "archive/elsewhere.md" and not world.row().is_removed
    assert [(each.path, each.new) for each in plan.writebacks] == [("archive/elsewhere.md", "done")]
    assert "C-05" in {change.check for change in plan.changes if isinstance(change, ChangeWorkstream)}


def test_files_that_swap_their_names_are_both_followed() -> None:
    world = World.of(plan_of(PLAN), plan_of(OTHER))
    one, two = f"{PLAN}.md", f"{OTHER}.md"
    world.files[one], world.files[two] = world.files[two], world.files[one]
    world.sync()
    assert (world.row(PLAN).path, world.row(OTHER).path) == (two, one)
    assert len(world.rows) == 2


def test_a_copied_id_stays_with_its_first_holder_whatever_the_copy_is_called() -> None:
    for copy in ("0-first.md", "zz-last.md"):
        world = World.of(plan_of(PLAN, task("T01")))
        world.write(plan_of(PLAN, task("T01", "done")), copy)
        plan = world.sync()
        assert world.row().path == f"{PLAN}.md" and world.task_row("T01").status == "todo"
        (told,) = found_by(plan, "C-04")
        assert told.path == copy and f"{PLAN}.md" in told.message


def test_an_id_claimed_by_two_new_files_is_followed_in_neither() -> None:
    world = World()
    world.write(plan_of(), "a.md")
    world.write(plan_of(), "b.md")
    plan = world.sync()
    assert world.rows == [] and {each.subject for each in found_by(plan, "C-04")} == {"a.md", "b.md"}


def test_a_holder_that_moved_while_a_copy_was_made_is_not_guessed_and_not_removed() -> None:
    world = World.of(plan_of(PLAN, task("T01")))
    reading = world.files.pop(f"{PLAN}.md")
    world.files |= {"a.md": reading, "b.md": reading}
    plan = world.sync()
    assert len(found_by(plan, "C-04")) == 2 and not world.row().is_removed
    assert plan.changes == []


def test_an_id_that_another_repo_holds_makes_no_row_here() -> None:
    world = World(held_elsewhere={PLAN: "first-repo"})
    world.write(plan_of())
    plan = world.sync()
    assert world.rows == []
    (told,) = found_by(plan, "C-04")
    assert "first-repo" in told.message


# -- gone, broken, back --


@pytest.mark.parametrize("status", TASKS)
def test_a_removed_block_becomes_cancelled_if_it_was_open_and_only_when_history_shows_it(status: str) -> None:
    world = World.of(plan_of(PLAN, task("T01"), task("T02", status)))
    world.write(plan_of(PLAN, task("T01")))
    world.shown = frozenset()
    plan = world.sync()
    assert not world.task_row("T02").is_removed and world.task_row("T02").status == status
    assert [each.subject for each in found_by(plan, "C-07")] == [f"{PLAN}/T02"]
    world.shown = frozenset({PLAN})
    world.sync()
    assert world.task_row("T02").is_removed
    assert world.task_row("T02").status == (status if status in CLOSED else "cancelled")


def test_a_removed_file_becomes_a_tombstone_only_when_history_shows_it() -> None:
    world = World.of(plan_of(PLAN, task("T01"), task("T02", "done")))
    world.files.clear()
    world.shown = frozenset()
    plan = world.sync()
    assert not world.row().is_removed and [each.subject for each in found_by(plan, "C-07")] == [PLAN]
    world.shown = None
    world.sync()
    assert world.row().is_removed
    assert [(each.status, each.is_removed) for each in world.row().tasks] == [("cancelled", True), ("done", True)]
    assert world.plan() == Plan(), "told once"


def test_a_removed_and_restored_file_revives_with_the_statuses_of_the_file() -> None:
    world = World.of(plan_of(PLAN, task("T01", "progress"), task("T02")))
    kept = world.files.pop(f"{PLAN}.md")
    world.sync()
    world.files["back.md"] = kept
    plan = world.sync()
    row = world.row()
    assert not row.is_removed and row.path == "back.md" and row.base_status == "active"
    assert [(each.status, each.base_status, each.is_removed) for each in row.tasks] == [
        ("progress", "progress", False),
        ("todo", "todo", False),
    ]
    assert plan.writebacks == [] and found_by(plan, "C-10") == []
    assert world.plan() == Plan()


def test_a_removed_and_restored_task_revives() -> None:
    both = plan_of(PLAN, task("T01"), task("T02", "progress"))
    world = World.of(both)
    world.write(plan_of(PLAN, task("T01")))
    world.sync()
    world.write(both)
    world.sync()
    assert (world.task_row("T02").status, world.task_row("T02").is_removed) == ("progress", False)
    assert world.plan() == Plan()


def test_a_broken_file_never_removes_its_row() -> None:
    world = World.of(plan_of(PLAN, task("T01")))
    world.files[f"{PLAN}.md"] = unreadable(f"{PLAN}.md")
    plan = world.sync()
    assert not plan.changes and not plan.writebacks
    assert [each.check for each in plan.found] == ["C-02"]


def test_a_broken_file_under_a_new_name_never_removes_the_row_it_may_be() -> None:
    world = World.of(plan_of(PLAN, task("T01")))
    del world.files[f"{PLAN}.md"]
    world.files["moved.md"] = unreadable("moved.md")
    plan = world.sync()
    assert plan.changes == [] and {each.check for each in plan.found} == {"C-02", "C-07"}


def test_a_file_that_is_no_workplan_any_more_keeps_its_row_and_is_told() -> None:
    world = World.of(plan_of(PLAN, task("T01")))
    world.files[f"{PLAN}.md"] = Reading(workplan=None, faults=())
    plan = world.sync()
    assert plan.changes == [] and [each.check for each in plan.found] == ["C-02"]


def test_an_incomplete_file_never_removes_tasks_but_still_follows_those_it_shows() -> None:
    world = World.of(plan_of(PLAN, task("T01"), task("T02")))
    world.write(plan_of(PLAN, task("T01", "done"), is_complete=False))
    world.sync()
    assert world.task_row("T01").status == "done"
    assert (world.task_row("T02").status, world.task_row("T02").is_removed) == ("todo", False)


def test_a_task_id_that_stands_twice_leaves_its_row_alone() -> None:
    text = "---\nid: CUST-WP-0040\ntype: workplan\ntitle: T\nstatus: active\n---\n" + "".join(
        f"```task\nid: {name}\nstatus: {status}\n```\n"
        for name, status in [("T01", "todo"), ("T02", "todo"), ("T01", "done")]
    )
    world = World.of(plan_of(PLAN, task("T01", "progress", title=""), task("T02", title="")))
    world.files[f"{PLAN}.md"] = read_workplan(text.encode(), f"{PLAN}.md")
    plan = world.sync()
    assert (world.task_row("T01").status, world.task_row("T01").is_removed) == ("progress", False)
    assert [each.check for each in plan.found] == ["C-04"]


@pytest.mark.parametrize("status", PLANS)
def test_open_tasks_in_a_plan_that_is_over_are_told_and_left_alone(status: str) -> None:
    tasks = [task(f"T{number:02}", each) for number, each in enumerate(TASKS)]
    for world in (World(), World.of(plan_of(PLAN, *tasks, status=status))):
        world.write(plan_of(PLAN, *tasks, status=status))
        plan = world.plan()
        stale = {each.subject for each in found_by(plan, "C-11")}
        is_over = status in ("finished", "archived")
        assert stale == ({f"{PLAN}/T00", f"{PLAN}/T01", f"{PLAN}/T02"} if is_over else set())
        assert plan.writebacks == []


# -- the whole --

ids = st.sampled_from([PLAN, OTHER, "WP-001"])
task_values = st.builds(
    task,
    st.sampled_from(["T01", "T02", "T03"]),
    st.sampled_from(TASKS),
    title=st.sampled_from(["a", "b"]),
    fields=st.sampled_from([{}, {"owner": "x"}]),
)
workplans = st.builds(
    lambda name, tasks, **more: plan_of(name, *tasks, **more),
    ids,
    st.lists(task_values, max_size=3, unique_by=lambda each: each.id),
    status=st.sampled_from(PLANS),
    title=st.sampled_from(["A", "B"]),
    is_complete=st.sampled_from([True, True, True, False]),
)
readings = st.one_of(
    workplans.map(lambda plan: Reading(workplan=plan, faults=())),
    workplans.map(lambda plan: Reading(workplan=plan, faults=())),
    st.just(unreadable("x.md")),
    st.just(Reading(workplan=None, faults=())),
)
trees = st.dictionaries(st.sampled_from(["a.md", "b.md", "c.md"]), readings, max_size=3)
row_edits = st.lists(
    st.tuples(st.integers(0, 5), st.integers(-1, 3), st.sampled_from(TASKS), st.sampled_from(PLANS)), max_size=4
)


def edit_rows(world: World, edits: list[tuple[int, int, str, str]]) -> None:
    """Status changes as the API allows them: not of tombstones."""
    for plan, index, task_status, plan_status in edits:
        live = [row for row in world.rows if not row.is_removed]
        if not live:
            return
        row = live[plan % len(live)]
        tasks = [each for each in row.tasks if not each.is_removed]
        if index < 0 or not tasks:
            world.set_plan(row.id, status=plan_status)
        else:
            world.set_task(row.id, tasks[index % len(tasks)].id, status=task_status)


worlds = st.lists(st.tuples(trees, row_edits, st.booleans()), min_size=1, max_size=4)


def play(steps: list[tuple[Mapping[str, Reading], list[tuple[int, int, str, str]], bool]]) -> World:
    """A world after some history; the last step is not reconciled yet."""
    world = World()
    for number, (files, edits, shows) in enumerate(steps):
        world.files = dict(files)
        world.shown = None if shows else frozenset()
        edit_rows(world, edits)
        if number + 1 < len(steps):
            plan = world.sync()
            world.push(plan.writebacks)
    return world


@settings(deadline=None, max_examples=100)
@given(worlds)
def test_reconciling_twice_changes_nothing_and_asks_for_the_same_writebacks(steps: list[Any]) -> None:
    world = play(steps)
    first = world.sync()
    second = world.plan()
    assert second.changes == []
    assert second.writebacks == first.writebacks


@settings(deadline=None, max_examples=100)
@given(worlds)
def test_after_the_push_nothing_is_left_to_do(steps: list[Any]) -> None:
    world = play(steps)
    world.push(world.sync().writebacks)
    plan = world.plan()
    assert not plan.changes and not plan.writebacks
    for reads_all in (False, True):
        assert world.plan(reads_all=reads_all).changes == []


@settings(deadline=None, max_examples=100)
@given(worlds)
def test_after_the_push_files_and_live_rows_say_the_same(steps: list[Any]) -> None:
    world = play(steps)
    world.push(world.sync().writebacks)
    for row in world.rows:
        reading = world.files.get(row.path)
        if row.is_removed or reading is None or reading.workplan is None or reading.workplan.id != row.id:
            continue
        assert row.status == row.base_status == reading.workplan.status
        in_rows = {each.id: each.status for each in row.tasks if not each.is_removed}
        in_file = {each.id: each.status.value for each in reading.workplan.tasks}
        assert in_rows.items() >= in_file.items()


@settings(deadline=None, max_examples=60)
@given(worlds)
def test_nothing_is_removed_unless_history_shows_it(steps: list[Any]) -> None:
    world = play(steps)
    world.shown = frozenset()
    for change in world.plan().changes:
        if isinstance(change, ChangeWorkstream | ChangeTask):
            assert change.values.get("is_removed") is not True


@settings(deadline=None, max_examples=60)
@given(worlds)
def test_the_order_of_the_rows_does_not_matter_to_what_they_become(steps: list[Any]) -> None:
    one, two = play(steps), play(steps)
    two.rows.reverse()
    one.sync()
    two.sync()
    key = {row.id: replace(row, pk=0) for row in one.rows}
    assert key == {row.id: replace(row, pk=0) for row in two.rows}


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(TASKS), st.sampled_from(TASKS), st.sampled_from(TASKS))
def test_both_orders_of_a_file_edit_and_a_database_edit_converge_or_report(base: str, file: str, row: str) -> None:
    def run(first: str, *, is_apart: bool) -> tuple[str, bool]:
        """The status both sides end with, and whether a loser was told."""
        world = World.of(plan_of(PLAN, task("T01", base)))
        told = False
        for side in (first, "row" if first == "file" else "file"):
            if side == "file":
                world.write(plan_of(PLAN, task("T01", file)))
            else:
                world.set_task(PLAN, "T01", status=row)
            if is_apart:
                plan = world.sync()
                world.push(plan.writebacks)
        plan = world.sync()
        told |= bool(found_by(plan, "C-10"))
        world.push(plan.writebacks)
        reading = world.files[f"{PLAN}.md"].workplan
        assert reading is not None
        assert reading.tasks[0].status == world.task_row("T01").status, "they always converge"
        return world.task_row("T01").status, told

    together = run("file", is_apart=False)
    assert together == run("row", is_apart=False)
    status, told = together
    assert told == (len({base, file, row}) == 3), "a loser is told, and only a loser"
    assert status in (file, row)
    assert run("file", is_apart=True)[0] == (row if row != file else file), "seen one by one, the later one counts"
