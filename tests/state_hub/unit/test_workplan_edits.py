"""Edits of statuses leave every other byte alone, or are refused."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state_hub.registry import TaskStatus, WorkstreamStatus
from state_hub.workplan import EditRefused, StatusEdit, edit_workplan, read_workplan

TASKS = [status.value for status in TaskStatus]
PLANS = [status.value for status in WorkstreamStatus]

PROSE = st.lists(
    st.sampled_from(
        [
            "Some text.",
            "Žluťoučký kůň 🐎  ",
            "\tindented by a tab",
            "trailing   \t ",
            "",
            "# status: todo",
            "status: todo",
            "id: T01",
            "* a\n* b",
            "<!--\n```task\nid: T01\nstatus: todo\n```\n-->",
            "````\n```task\nid: T02\nstatus: wait\n```\n````",
            "~~~\n```task\nid: T02\nstatus: wait\n```\n~~~",
            "    ```task\n    id: T03\n    ```",
            "Heading\n=======",
            "| a | b |\n|---|---|",
            "a\u2028b\x0bc\x0cd",
            "\ufeff",
            "---",
        ]
    ),
    max_size=4,
).map(lambda lines: "".join(f"\n{line}\n\n" for line in lines))
QUOTES = st.sampled_from(["", '"', "'"])
AFTER = st.sampled_from(["", " ", "\t", " # todo, or status: done", "   # é"])
BEFORE = st.sampled_from([" ", "  ", "   "])
KEYS = st.lists(
    st.sampled_from(
        ["note: 'status: todo'", "é: ž", "# status: done", "list: [a,   b]", "", "text: |\n  status: wait"]
    ),
    max_size=3,
    unique=True,
).map(lambda lines: "".join(f"{line}\n" for line in lines))
FENCE = st.sampled_from(["```", "````", "~~~", "~~~~~"])


@st.composite
def documents(draw: st.DrawFn) -> tuple[list[str], list[str | None], list[str]]:
    """A file as pieces of text around its statuses; whose each status is; and the statuses."""
    pieces: list[str] = []
    statuses = [draw(st.sampled_from(PLANS))]
    quote = draw(QUOTES)
    pieces.append(
        f"---\n{draw(KEYS)}id: CUST-WP-0040\ntype: workplan\ntitle: 'Ein Plan: ß'\nstatus:{draw(BEFORE)}{quote}"
    )
    rest = f"{quote}{draw(AFTER)}\n---{draw(st.sampled_from(['', ' ']))}\n"
    owners: list[str | None] = [None]
    for number in range(draw(st.integers(0, 3))):
        name, fence, quote = f"T{number + 1:02}", draw(FENCE), draw(QUOTES)
        keys = draw(KEYS)
        pieces.append(f"{rest}{draw(PROSE)}{fence}task\n{keys}id: {name}\nstatus:{draw(BEFORE)}{quote}")
        rest = f"{quote}{draw(AFTER)}\n{fence}\n"
        owners.append(name)
        statuses.append(draw(st.sampled_from(TASKS)))
    pieces.append(rest + draw(PROSE) + draw(st.sampled_from(["", "end without a line end", "```\nnever closed"])))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    pieces = [piece.replace("\n", end) for piece in pieces]
    pieces[0] = draw(st.sampled_from(["", "\ufeff"])) + pieces[0]
    return pieces, owners, statuses


def woven(pieces: list[str], statuses: list[str]) -> bytes:
    return "".join(a + b for a, b in zip(pieces, [*statuses, ""], strict=True)).encode()


@settings(deadline=None, max_examples=150)
@given(documents(), st.data())
def test_an_edit_changes_the_statuses_it_names_and_no_other_byte(
    document: tuple[list[str], list[str | None], list[str]], data: st.DataObject
) -> None:
    pieces, owners, old = document
    new = [data.draw(st.sampled_from(PLANS if owner is None else TASKS)) for owner in owners]
    before = woven(pieces, old)
    edits = [StatusEdit(task_id=owner, old=a, new=b) for owner, a, b in zip(owners, old, new, strict=True) if a != b]
    after = edit_workplan(before, data.draw(st.permutations(edits)), "plan.md")
    assert after == woven(pieces, new)
    found = read_workplan(after, "plan.md").workplan
    assert found is not None
    assert [found.status, *(task.status for task in found.tasks)] == new
    backwards = [StatusEdit(task_id=each.task_id, old=each.new, new=each.old) for each in edits]
    assert edit_workplan(after, backwards, "plan.md") == before


@settings(deadline=None, max_examples=60)
@given(documents())
def test_no_edits_give_the_same_bytes(document: tuple[list[str], list[str | None], list[str]]) -> None:
    data = woven(document[0], document[2])
    assert edit_workplan(data, [], "plan.md") == data


@settings(deadline=None, max_examples=60)
@given(documents(), st.data())
def test_an_edit_of_another_status_than_the_file_has_is_refused(
    document: tuple[list[str], list[str | None], list[str]], data: st.DataObject
) -> None:
    pieces, owners, old = document
    index = data.draw(st.integers(0, len(owners) - 1))
    known = PLANS if owners[index] is None else TASKS
    other = data.draw(st.sampled_from([status for status in known if status != old[index]]))
    with pytest.raises(EditRefused):
        edit_workplan(woven(pieces, old), [StatusEdit(task_id=owners[index], old=other, new=old[index])], "plan.md")


PLAN = b"---\nid: A-WP-0001\ntype: workplan\ntitle: T\nstatus: active\n---\n```task\nid: T01\nstatus: todo\n```\n"


def refusal(data: bytes, *edits: tuple[str | None, str, str]) -> str:
    with pytest.raises(EditRefused) as refused:
        edit_workplan(data, [StatusEdit(task_id=task, old=old, new=new) for task, old, new in edits], "plan.md")
    return str(refused.value)


def test_an_edit_of_a_task_that_is_gone_is_refused_by_its_name() -> None:
    assert "T02" in refusal(PLAN, ("T02", "todo", "done"))


def test_one_refused_edit_refuses_them_all() -> None:
    refusal(PLAN, ("T01", "todo", "done"), (None, "blocked", "finished"))


@pytest.mark.parametrize("form", ["&a todo", "! todo", ">-\n  todo", "|-\n  todo", '"to\\x64o"', "'to\n  do'"])
def test_an_edit_of_a_status_that_is_no_plain_word_is_refused(form: str) -> None:
    refusal(PLAN.replace(b"todo", form.encode()), ("T01", "todo", "done"))


def test_an_edit_through_an_alias_is_refused() -> None:
    for line, task in product([b"x: &a todo\nstatus: *a", b"status: &a todo\nx: *a"], ["T01"]):
        refusal(PLAN.replace(b"status: todo", line), (task, "todo", "done"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"# no plan\n",
        PLAN + b"\xff",
        PLAN.replace(b"title", b"id"),
        PLAN + b"<<<<<<< a\n=======\n>>>>>>> b\n",
        PLAN + PLAN[PLAN.index(b"```") :],
        PLAN.replace(b"\n```\n", b"\n"),
        b"> " + PLAN,
    ],
)
def test_an_edit_of_what_cannot_be_read_is_refused(data: bytes) -> None:
    refusal(data, ("T01", "todo", "done"))


@pytest.mark.parametrize("new", ["nonsense", "", "done # x", "done\nid: T02", "finished", '"'])
def test_an_edit_to_something_that_is_no_status_is_refused(new: str) -> None:
    refusal(PLAN, ("T01", "todo", new))


def test_two_edits_of_one_status_are_refused_or_count_once() -> None:
    edit = StatusEdit(task_id="T01", old="todo", new="done")
    try:
        after = edit_workplan(PLAN, [edit, edit], "plan.md")
    except EditRefused:
        return
    assert after == PLAN.replace(b"todo", b"done")


def test_a_task_beside_an_unreadable_one_can_be_edited() -> None:
    broken = b"```task\nid: [\n```\n"
    edits = [StatusEdit(task_id="T01", old="todo", new="cancelled")]
    assert edit_workplan(PLAN + broken, edits, "plan.md") == PLAN.replace(b"todo", b"cancelled") + broken
