"""What a workplan file turns out to be, and where its faults are."""

from __future__ import annotations

import sys
import time
import tracemalloc
from typing import Any

import jsonschema_rs
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from state_hub.registry import TaskStatus, WorkstreamStatus
from state_hub.workplan import (
    MAX_BYTES,
    MAX_TITLE,
    MOST_LINES,
    MOST_TASKS,
    Reading,
    Workplan,
    json_schema,
    lines_of,
    new_workplan,
    read_workplan,
)

FRONT = """---
id: CUST-WP-0040
type: workplan
title: A plan
status: active
---
"""
BLOCK = "```task\nid: T01\nstatus: todo\n```\n"


def read(text: str | bytes) -> Reading:
    return read_workplan(text if isinstance(text, bytes) else text.encode(), "plan.md")


def plan(text: str | bytes) -> Workplan:
    reading = read(text)
    assert reading.faults == () and reading.workplan is not None, reading.faults
    return reading.workplan


def faults(text: str | bytes) -> list[tuple[str, int, int]]:
    return [(fault.check, fault.problem.line, fault.problem.column) for fault in read(text).faults]


def only_fault(text: str | bytes) -> tuple[str, int, int]:
    (fault,) = faults(text)
    return fault


def place_of(text: str, needle: str, occurrence: int = 1) -> tuple[int, int]:
    """Line and column of a piece of text, lines ending as editors end them; both from 1."""
    at = -1
    for _ in range(occurrence):
        at = text.index(needle, at + 1)
    before = text[:at].replace("\r\n", "\n").replace("\r", "\n")
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


# -- what a file says --


def test_a_workplan_is_front_matter_and_task_blocks() -> None:
    found = plan(
        FRONT.replace("active", "active\ndepends_on: [WP-001, WP-001]\nowner: me")
        + "# Head\n\n## First **step**\n\n"
        + BLOCK
        + "\n```task\nid: T02\ntitle: Own\nstatus: done\ndepends_on: T01\nhours: 3\n```\n"
    )
    assert (found.id, found.title, found.status, found.line) == ("CUST-WP-0040", "A plan", "active", 2)
    assert found.depends_on == ("WP-001",) and found.fields == {"owner": "me"} and found.is_complete
    one, two = found.tasks
    assert (one.id, one.title, one.status, one.depends_on) == ("T01", "First **step**", "todo", ())
    assert (two.id, two.title, two.status, two.depends_on) == ("T02", "Own", "done", ("T01",))
    assert two.fields == {"hours": 3}


@pytest.mark.parametrize("status", list(WorkstreamStatus))
def test_every_status_of_a_workplan_is_read(status: str) -> None:
    assert plan(FRONT.replace("active", status)).status == status


@pytest.mark.parametrize("status", list(TaskStatus))
def test_every_status_of_a_task_is_read(status: str) -> None:
    assert plan(FRONT + BLOCK.replace("todo", status)).tasks[0].status == status


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_a_byte_order_mark_make_no_difference(end: str, mark: bytes) -> None:
    data = mark + (FRONT + "é\n" + BLOCK).replace("\n", end).encode()
    found = plan(data)
    (task,) = found.tasks
    assert (task.status, task.line) == ("todo", 8)
    assert task.status_at is not None and data[slice(*task.status_at)] == b"todo"
    assert found.status_at is not None and data[slice(*found.status_at)] == b"active"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# A readme\n",
        "---\n---\n",
        "---\ntitle: A post\ntype: post\n---\n",
        "---\n- a\n---\n",
        "---\ntext\n---\n",
        "text\n" + FRONT,
        " ---\nid: x\n---\n",
    ],
)
def test_a_file_of_another_kind_is_neither_a_workplan_nor_at_fault(text: str) -> None:
    assert read(text) == Reading(workplan=None, faults=())


@pytest.mark.parametrize(
    "around",
    [
        "<!--\n{}-->\n",
        "<pre>\n{}</pre>\n",
        "````\n{}````\n",
        "~~~\n{}~~~\n",
        "~~~markdown\n{}~~~\n",
        "   ````text\n{}   ````\n",
        "````\n{}",
    ],
)
def test_a_task_block_inside_a_comment_or_a_sample_is_no_task(around: str) -> None:
    assert plan(FRONT + around.format(BLOCK)).tasks == ()


@pytest.mark.parametrize(
    "block",
    [
        "~~~task\nid: T01\nstatus: todo\n~~~\n",
        "````task\nid: T01\nstatus: todo\n````\n",
        "```task\nid: T01\nstatus: todo\n``````   \n",
        "``` task extra\nid: T01\nstatus: todo\n```\n",
        "   ```task\n   id: T01\n   status: todo\n   ```\n",
        "text right before\n```task\nid: T01\nstatus: todo\n```\ntext right after\n",
        "```task\n\n# note\nstatus: todo\nid: T01\n\n```\n",
        "```\nclosed\n```\n```task\nid: T01\nstatus: todo\n```",
        "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\n\n```task\nid: T01\nstatus: todo\n```\n",
        "a\0b\n\n```task\nid: T01\nstatus: todo\n```\n",
    ],
)
def test_a_task_block_is_any_fence_at_the_left_margin_whose_first_word_is_task(block: str) -> None:
    (task,) = plan(FRONT + block).tasks
    data = (FRONT + block).encode()
    assert (task.id, task.status) == ("T01", "todo")
    assert task.status_at is not None and data[slice(*task.status_at)] == b"todo"
    assert "task" in (FRONT + block).split("\n")[task.line - 1]


@pytest.mark.parametrize("word", ["Task", "tasks", "yaml task", "", "task: x"])
def test_a_fence_with_another_first_word_is_no_task(word: str) -> None:
    assert plan(FRONT + f"```{word}\nid: T01\nstatus: todo\n```\n").tasks == ()


@pytest.mark.parametrize("text", ["    ```task\n    id: T01\n    status: todo\n    ```\n", "`task`\n"])
def test_code_that_is_no_fence_is_no_task(text: str) -> None:
    assert plan(FRONT + "\n" + text).tasks == ()


# -- where the faults are --


@pytest.mark.parametrize(
    ("wrong", "check", "needle"),
    [
        (FRONT.replace("id: CUST-WP-0040", "id: nope"), "C-03", "nope"),
        (FRONT.replace("id: CUST-WP-0040", "id: 40"), "C-03", "40"),
        (FRONT.replace("title: A plan", "title: 12"), "C-03", "12"),
        (FRONT.replace("title: A plan", "title: ' '"), "C-03", "' '"),
        (FRONT.replace("title: A plan", "title: " + "x" * (MAX_TITLE + 1)), "C-03", "xxx"),
        (FRONT.replace("active", "todo"), "C-03", "todo"),
        (FRONT.replace("active", "[active]"), "C-03", "[active]"),
        (FRONT.replace("active", "active\ndepends_on: [T01]"), "C-03", "[T01]"),
        (FRONT.replace("active", "active\ndepends_on: 7"), "C-03", "7"),
        (FRONT.replace("type: workplan", "type: workpaln"), "C-03", "workpaln"),
        (FRONT.replace("active", "active\nid: X-WP-001"), "C-02", "id: X"),
        (FRONT.replace("active", "active\nx: 12:30"), "C-02", "12:30"),
        (FRONT.replace("active", "active\non: 1"), "C-02", "on: 1"),
        (FRONT.replace("active", "active\nx: !!python/object:os.system y"), "C-02", "!!python"),
        (FRONT.replace("active", "active\nx: *nothing"), "C-02", "*nothing"),
        (FRONT.replace("active", "active\nx: " + "[" * 40), "C-02", "[" * 9),
        (FRONT + "é\n" + BLOCK.replace("T01", "T1"), "C-03", "T1\n"),
        (FRONT + BLOCK.replace("todo", "open"), "C-03", "open"),
        (FRONT + BLOCK.replace("todo", "&a todo"), "C-03", "&a"),
        (FRONT + BLOCK.replace("todo", "! todo"), "C-03", "! todo"),
        (FRONT + BLOCK.replace("todo", ">-\n  todo"), "C-03", ">-"),
        (FRONT + BLOCK.replace("todo", '"to\\x64o"'), "C-03", '"to'),
        (FRONT + BLOCK.replace("todo", "todo\ndepends_on: [x]"), "C-03", "[x]"),
        (FRONT + BLOCK.replace("todo", "todo\ntitle: []"), "C-03", "[]"),
        (FRONT + BLOCK.replace("todo", "todo\nstatus: done"), "C-02", "status: done"),
        (FRONT + BLOCK.replace("todo", "todo\nx: 0123"), "C-02", "0123"),
        (FRONT + BLOCK.replace("\n```\n", "\n"), "C-02", "```task"),
        (FRONT + "> " + BLOCK.replace("\n", "\n> "), "C-02", None),
        (FRONT + "- " + BLOCK.replace("\n", "\n  "), "C-02", None),
        (FRONT + "```task\n- a\n```\n", "C-02", "```task"),
        (FRONT + BLOCK + "text\n\n" + BLOCK, "C-04", "```task"),
        ("---\nid: CUST-WP-0040\n", "C-02", "---"),
        (BLOCK, "C-02", "```task"),
        (FRONT.replace("type: workplan\n", ""), "C-03", "---"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_fault_points_at_what_is_wrong(wrong: str, check: str, needle: str | None, end: str) -> None:
    text = wrong.replace("\n", end)
    line, column = (7, 1) if needle is None else place_of(text, needle.replace("\n", end), 2 if check == "C-04" else 1)
    if needle == "[" * 9:  # the bracket that is one too deep
        found = only_fault(text)
        assert found[:2] == (check, line)
        assert text.splitlines()[line - 1][found[2] - 1] == "["
        return
    assert only_fault(text) == (check, line, column)


@pytest.mark.parametrize(
    ("missing", "where"),
    [("id: CUST-WP-0040\n", (2, 1)), ("title: A plan\n", (2, 1)), ("status: active\n", (2, 1))],
)
def test_a_missing_key_is_told_where_the_front_matter_begins(missing: str, where: tuple[int, int]) -> None:
    assert only_fault(FRONT.replace(missing, "")) == ("C-03", *where)


def test_a_fault_is_told_with_its_place_and_check_in_the_order_of_the_file() -> None:
    text = FRONT.replace("title: A plan", "title: 3").replace("active", "nope") + BLOCK.replace("todo", "open")
    assert [line.split(": ")[:2] for line in lines_of(read(text).faults)] == [
        ["plan.md:4:8", "C-03"],
        ["plan.md:5:9", "C-03"],
        ["plan.md:9:9", "C-03"],
    ]


def test_a_control_character_is_told_where_it_stands_also_after_letters_of_several_bytes() -> None:
    text = "---\nid: CUST-WP-0040\ntitle: éééééééééééé\nb: \x01\nc: d\n---\n"
    assert only_fault(text) == ("C-02", *place_of(text, "\x01"))


def test_a_byte_that_is_no_utf_8_is_told_by_its_line_whatever_the_lines_end_with() -> None:
    for end in ("\n", "\r\n", "\r"):
        data = FRONT.replace("\n", end).encode() + b"a\xff"
        assert only_fault(data)[:2] == ("C-02", 7), end


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_lines_are_counted_as_editors_count_them(separator: str) -> None:
    text = FRONT.replace("title: A plan", f'title: "A{separator} plan"').replace("active", "nope")
    assert only_fault(text) == ("C-03", *place_of(text, "nope"))


def test_a_status_after_a_byte_order_mark_inside_its_block_can_be_edited_or_is_refused_for_that_mark() -> None:
    reading = read(FRONT + "```task\n\ufeffid: T01\nstatus: todo\n```\n")
    assert not any("alias" in fault.problem.message for fault in reading.faults)


@pytest.mark.parametrize(
    "text",
    [
        FRONT + "<<<<<<< HEAD\na\n=======\nb\n>>>>>>> topic\n",
        FRONT + "<<<<<<< HEAD\na\n||||||| base\nc\n=======\nb\n>>>>>>> topic\n",
        FRONT.replace("status: active", "<<<<<<< HEAD\nstatus: active\n=======\nstatus: done\n>>>>>>> topic"),
        FRONT + BLOCK.replace("status: todo", "<<<<<<< HEAD\nstatus: todo\n=======\nstatus: done\n>>>>>>> topic"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_conflict_markers_are_told_where_they_begin_and_nothing_is_read(text: str, end: str) -> None:
    text = text.replace("\n", end)
    assert only_fault(text) == ("C-02", *place_of(text, "<<<<<<<"))
    assert read(text).workplan is None


@pytest.mark.parametrize(
    "text",
    [
        "```\n<<<<<<< HEAD\na\n=======\nb\n>>>>>>> topic\n```\n",
        "Heading\n=======\n",
        "<<<<<<< HEAD\n",
        ">>>>>>> a\n=======\n<<<<<<< b\n",
        "    <<<<<<< HEAD\n    =======\n    >>>>>>> x\n",
    ],
)
def test_markers_in_samples_and_lone_ones_are_text(text: str) -> None:
    assert plan(FRONT + text).tasks == ()


def test_a_sample_of_a_conflict_does_not_hide_what_is_wrong_with_the_front_matter() -> None:
    text = FRONT.replace("title", "id") + "```\n<<<<<<< HEAD\na\n=======\nb\n>>>>>>> topic\n```\n"
    assert only_fault(text) == ("C-02", 4, 1)


def test_one_unreadable_block_leaves_the_others_and_makes_the_file_incomplete() -> None:
    reading = read(FRONT + BLOCK + "```task\nid: [\n```\n" + BLOCK.replace("T01", "T03"))
    assert reading.workplan is not None and not reading.workplan.is_complete
    assert [task.id for task in reading.workplan.tasks] == ["T01", "T03"]


def test_an_id_that_stands_twice_is_read_from_neither_place() -> None:
    reading = read(FRONT + BLOCK + BLOCK.replace("todo", "done") + BLOCK.replace("T01", "T02"))
    assert reading.workplan is not None and not reading.workplan.is_complete
    assert [task.id for task in reading.workplan.tasks] == ["T02"]


# -- limits --


def cost_of(data: bytes) -> tuple[Reading, int]:
    """The reading, and the most memory it held at once."""
    tracemalloc.start()
    try:
        return read_workplan(data, "plan.md"), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def padded(size: int) -> bytes:
    head = (FRONT + BLOCK).encode()
    return head + b"x" * 99 + b"\n" + (b"y" * 9999 + b"\n") * ((size - len(head) - 100) // 10_000)


def test_a_file_of_just_1_mib_is_read_and_a_larger_one_refused_unread() -> None:
    data = padded(MAX_BYTES)
    data += b"z" * (MAX_BYTES - len(data))
    assert len(plan(data).tasks) == 1
    assert only_fault(data + b"z") == ("C-02", 0, 0)
    reading, memory = cost_of(bytes(100 << 20))
    assert reading.workplan is None and memory < 1 << 20


ANCHORS = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
LONG_ANCHORS = f'a: &a "{"x" * 20_000}"\n' + "".join(ANCHORS.splitlines(keepends=True)[:2])


@pytest.mark.parametrize(
    "text",
    [
        FRONT.replace("title: A plan", "title: T\na: &a [x]\n" + ANCHORS),
        FRONT.replace("title: A plan", "title: T\nx: " + "[" * 20_000),
        FRONT.replace("title: A plan", "title: T\nx: " + "{a: " * 20_000),
        FRONT.replace("title: A plan", "title: T\nx:\n" + "".join(" " * n + "-\n" for n in range(1, 1_000))),
        FRONT + "```task\nid: T01\nstatus: todo\nx: " + "[" * 20_000 + "\n```\n",
        FRONT + ">" * 20_000 + "\n" + "- " * 20_000 + "\n" + "[" * 20_000 + "\n" + "(" * 20_000 + "\n" + "*" * 20_000,
    ],
)
def test_bombs_and_deep_nesting_cost_little(text: str) -> None:
    began = time.process_time()
    read(text)
    assert time.process_time() - began < 1
    assert cost_of(text.encode())[1] < 50 << 20


@pytest.mark.parametrize("key", ["title", "status", "depends_on"])
def test_a_long_text_repeated_by_aliases_is_not_spelled_out_in_a_message(key: str) -> None:
    text = FRONT.replace("title: A plan\nstatus: active\n", "")
    for name, value in {"title": "T", "status": "active", "depends_on": "WP-001"}.items():
        text = text.replace("type: workplan\n", f"type: workplan\n{name}: {value}\n") if name != key else text
    text = (
        text.replace("---\nid", f"---\n{LONG_ANCHORS}id").removesuffix("---\n")
        + f"{key}: [{', '.join(['*c'] * 10)}]\n---\n"
    )
    reading, memory = cost_of(text.encode())
    assert [fault.check for fault in reading.faults] == ["C-02"]
    assert memory < 8 << 20, f"{memory:,} bytes for a file of {len(text):,}"


def test_the_cost_of_conflict_markers_and_samples_is_their_sum_and_not_their_product() -> None:
    def steps(times: int) -> int:
        """How many lines of Python a file with so many samples and markers takes."""
        count = 0

        def trace(_frame: object, _event: str, _argument: object) -> Any:
            nonlocal count
            count += 1
            return trace

        data = (FRONT + "```\n```\n" * times + "=======\n" * times).encode()
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            read(data)
        finally:
            sys.settrace(before)
        return count

    steps(10)
    assert steps(1_000) < 6 * steps(250), "four times the file is four times the work"


def test_a_file_of_nothing_but_headings_is_read_up_to_so_many_lines_and_in_little_memory() -> None:
    within = FRONT.encode() + b"#\n" * (MOST_LINES - 10)
    reading, memory = cost_of(within)
    assert reading.workplan is not None
    assert memory < 50 << 20
    (fault,) = read(FRONT.encode() + b"#\n" * 500_000).faults
    assert fault.check == "C-02" and "lines" in fault.problem.message


def test_more_tasks_than_are_kept_is_a_fault_and_never_a_removal() -> None:
    many = "".join(f"```task\nid: T{number:04}\nstatus: todo\n```\n" for number in range(MOST_TASKS + 1))
    reading = read(FRONT + many)
    assert [fault.check for fault in reading.faults] == ["C-02"]
    assert reading.workplan is not None and not reading.workplan.is_complete


# -- whatever stands in it --

VALID = (FRONT + "# Head é\n\n" + BLOCK + '\n~~~task\nid: T02\nstatus: "done" # yes\nx: [1, {a: b}]\n~~~\n').encode()
snippets = st.sampled_from([b"---\n", b"```task\n", b"```", b"~~~", b"\r", b"\n", b"\0", b"\xff", b"\xc3"])
snippets |= st.sampled_from([b"&a ", b"*a", b"\t", b": ", b"- ", b"> ", b"[", b"{", b'"', b"'", b"|", b"<!--", b"#"])
snippets |= st.sampled_from([b"<<<<<<< ", b"=======\n", b">>>>>>> ", b"status: todo\n", b"id: T01\n", b"<<: "])
snippets |= st.sampled_from(
    [b"\\", b"\xe2\x80\xa8", b"1e999", b"%", b"@", b"`", b"...", b"!!str ", b"-->", b"\xef\xbb\xbf"]
)


def check_reading(data: bytes) -> None:
    reading = read_workplan(data, "plan.md")
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") + 1
    for fault in reading.faults:
        assert fault.check in ("C-02", "C-03", "C-04") and fault.problem.message
        assert 0 <= fault.problem.line <= lines and fault.problem.column >= 0
    found = reading.workplan
    if found is not None:
        held: list[Any] = [found, *found.tasks]
        for each in held:
            if each.status_at is not None:
                assert data[slice(*each.status_at)].strip(b"'\"").decode() == each.status
        assert len({task.id for task in found.tasks}) == len(found.tasks)


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.binary(), st.lists(st.one_of(snippets, st.binary(max_size=3)), max_size=30).map(b"".join)))
def test_reading_never_raises_for_any_bytes(data: bytes) -> None:
    check_reading(data)
    check_reading(b"---\n" + data)


@settings(deadline=None, max_examples=250)
@given(st.lists(st.tuples(st.integers(0, len(VALID)), st.integers(0, 12), snippets | st.just(b"")), max_size=4))
def test_reading_never_raises_for_a_workplan_that_was_damaged(damages: list[tuple[int, int, bytes]]) -> None:
    data = VALID
    for start, length, put in damages:
        data = data[:start] + put + data[start + length :]
    if b"\xe2\x80\xa8" not in data:  # where lines end then has a test of its own
        check_reading(data)


# -- what it is written from --


@given(
    st.from_regex(r"\A(?:[A-Z][A-Z0-9]{0,15}-){0,3}WP-[0-9]{3,6}\Z"),
    st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp", "Co"]), min_size=1, max_size=60
    ),
)
@settings(deadline=None)
def test_a_new_workplan_reads_back(name: str, title: str) -> None:
    if not title.strip():
        return
    found = plan(new_workplan(name, title))
    assert (found.id, found.title, found.status) == (name, title, "proposed")
    assert [(task.id, task.status, task.title) for task in found.tasks] == [("T01", "todo", "The first step")]
    assert found.status_at is not None and found.tasks[0].status_at is not None


SCHEMA = json_schema()
DEFS = SCHEMA["$defs"]
assert isinstance(DEFS, dict)
ACCEPTS_FRONT = jsonschema_rs.validator_for(SCHEMA).is_valid
ACCEPTS_TASK = jsonschema_rs.validator_for(DEFS["task"]).is_valid

values: st.SearchStrategy[object] = st.sampled_from(["A-WP-0001", "WP-001", "T01", "T1", "A-WP-0001/T01"])
values |= st.sampled_from(["active", "todo", "done", "workplan", "", "x" * 501, 3, None, {}, True])
values |= st.sampled_from([[], ["A-WP-0001"], ["T01", "T02"], ["A-WP-0001/T01"], ["x"], [3]])
fronts = st.fixed_dictionaries(
    {"type": st.just("workplan"), "id": st.just("A-WP-0001") | values, "title": st.just("T") | values},
    optional={"status": st.just("active") | values, "depends_on": values, "more": values},
)
blocks = st.fixed_dictionaries(
    {"id": st.just("T01") | values, "status": st.just("todo") | values},
    optional={"title": values, "depends_on": values, "more": values},
)


@settings(deadline=None, max_examples=150)
@given(fronts)
@example({"type": "workplan", "id": "A-WP-0001", "title": "T", "status": "active", "depends_on": None})
def test_the_schema_accepts_the_front_matter_that_the_reader_accepts(front: dict[str, object]) -> None:
    text = f"---\n{yaml.safe_dump(front)}---\n"
    assert (read(text).workplan is not None) == ACCEPTS_FRONT(front)


@settings(deadline=None, max_examples=150)
@given(blocks)
@example({"id": "T01", "status": "todo", "depends_on": None})
def test_the_schema_accepts_the_task_blocks_that_the_reader_accepts(block: dict[str, object]) -> None:
    found = read(f"{FRONT}```task\n{yaml.safe_dump(block)}```\n").workplan
    assert found is not None
    assert bool(found.tasks) == ACCEPTS_TASK(block)
