from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from activity_core.catalog.load import (
    content_hash,
    describe_schedule,
    load,
    read_file,
    restore,
    rule_names,
    trigger_hash_of,
)
from activity_core.context.sources import source_names
from activity_core.definition.model import CronSchedule, Definition
from activity_core.errors import DefinitionError
from activity_plumbing.yaml_document import MAX_BYTES, Problem

SEED = Path(__file__).parents[2] / "seed"
CRON = '{trigger_type: cron, cron_expression: "@daily"}'
SHELL = "{kind: shell, cmd: make clean}"


def text_of(*, trigger: str = CRON, instruction: str = SHELL, more: str = "") -> str:
    """Line 1 the id, line 2 the trigger, line 3 the instruction, from line 4 whatever comes beside them."""
    return f"id: my-team.tidy\ntrigger: {trigger}\ninstruction: {instruction}\n{more}"


def loaded(text: str) -> Definition:
    return load(text.encode(), "here.yaml").definition


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(DefinitionError) as caught:
        loaded(text)
    return caught.value.problems


def problem(text: str) -> Problem:
    (only,) = problems(text)
    assert only.path == "here.yaml"
    return only


def column_of(text: str, line: int, part: str) -> int:
    return text.splitlines()[line - 1].index(part) + 1


def refusal_of(path: Path) -> Problem:
    with pytest.raises(DefinitionError) as caught:
        read_file(path)
    (only,) = caught.value.problems
    assert only.path == str(path)
    return only


# -- the whole check --


@pytest.mark.parametrize("name", sorted(path.name for path in SEED.iterdir()))
def test_the_seeds_examples_load_as_written(name: str) -> None:
    found = load(read_file(SEED / name), name)
    assert found.definition.id.startswith("the-custodian.")
    assert restore(found.plain_json) == found.definition


def test_plain_json_is_json_that_restores_the_definition() -> None:
    found = load(text_of(more="description: 'ä ↔ 😀'\n").encode(), "here.yaml")
    assert json.loads(found.plain_json)["description"] == "ä ↔ 😀"
    assert restore(found.plain_json) == found.definition


def test_a_version_whose_source_is_not_installed_is_not_restored() -> None:
    plain = json.loads(load(text_of().encode(), "here.yaml").plain_json)
    plain["context"] = [{"kind": "elsewhere.state", "bind": "x"}]
    assert restore(json.dumps(plain)) is None


# -- rules --


def test_a_rule_may_use_the_binds_and_the_slot() -> None:
    definition = loaded(
        text_of(
            more="context:\n  - {kind: state-hub.health, bind: hub}\n"
            "rule: {when: [\"hub.status == 'ok'\", \"slot > timestamp('2026-01-01T00:00:00Z')\"]}\n"
        )
    )
    assert rule_names(definition) == ("hub", "slot")


def test_the_rule_of_an_event_trigger_may_use_the_event() -> None:
    definition = loaded(
        text_of(trigger="{trigger_type: event, event_type: a.b}", more="rule: {when: [event.data.n > 1]}\n")
    )
    assert rule_names(definition) == ("event", "slot")


def test_the_rule_of_a_scheduled_trigger_knows_no_event() -> None:
    assert "the name 'event' is not declared" in problem(text_of(more="rule: {when: [event == 1]}\n")).message


@pytest.mark.parametrize(
    "line",
    [
        "    - hub_helth == 'ok'",
        "    - \"hub_helth == 'ok'\"",
        "    - 'hub_helth == 1'",
        '    - "true && 1 < 2 && hub_helth"',
        "    - \"'äö😀' == hub_helth\"",
    ],
)
def test_a_name_that_is_not_declared_is_told_with_its_column_and_the_nearest(line: str) -> None:
    text = text_of(more=f"context:\n  - {{kind: state-hub.health, bind: hub_health}}\nrule:\n  when:\n{line}\n")
    found = problem(text)
    assert (found.line, found.column) == (8, column_of(text, 8, "hub_helth"))
    assert "the name 'hub_helth' is not declared; did you mean 'hub_health'?" in found.message


def test_every_rule_with_a_name_that_is_not_declared_is_told() -> None:
    found = problems(text_of(more="rule:\n  when:\n    - one == 1\n    - slot == slot\n    - two == 2\n"))
    assert [(each.line, each.column) for each in found] == [(6, 7), (8, 7)]


def test_what_is_not_cel_is_told_with_its_column() -> None:
    text = text_of(more="rule:\n  when:\n    - 1 == == 1\n")
    found = problem(text)
    assert (found.line, found.column) == (6, column_of(text, 6, "== 1"))


def test_an_expression_over_several_lines_is_told_at_its_start() -> None:
    found = problem(text_of(more="rule:\n  when:\n    - |\n      true &&\n      nope\n"))
    assert (found.line, found.column) == (6, 7)
    assert "'nope' is not declared" in found.message


@pytest.mark.parametrize(
    ("text", "line", "name"),
    [
        (text_of(more="for_each: {items: nope, as: one, key: one.id}\n"), 4, "nope"),
        (text_of(more='for_each: {items: "[1]", as: one, key: nope}\n'), 4, "nope"),
        (text_of(instruction="{kind: shell, cmd: a, concurrency: {key_expr: nope}}"), 3, "nope"),
        (text_of(trigger="{trigger_type: event, event_type: a.b, when: nope}"), 2, "nope"),
        (text_of(trigger="{trigger_type: event, event_type: a.b, debounce: {for: 5s, key: nope}}"), 2, "nope"),
    ],
)
def test_every_expression_of_a_definition_is_checked(text: str, line: int, name: str) -> None:
    found = problem(text)
    assert (found.line, found.column) == (line, column_of(text, line, name))
    assert "the name 'nope' is not declared" in found.message


def test_the_key_of_an_item_may_use_the_item() -> None:
    definition = loaded(text_of(more='for_each: {items: "[1]", as: one, key: string(one)}\n'))
    assert definition.for_each is not None
    assert definition.for_each.key == "string(one)"


def test_the_permit_key_of_an_item_may_use_the_item_and_that_of_a_run_may_not() -> None:
    instruction = "{kind: shell, cmd: a, concurrency: {key_expr: one}}"
    loaded(text_of(instruction=instruction, more='for_each: {items: "[1]", as: one, key: string(one)}\n'))
    assert "the name 'one' is not declared" in problem(text_of(instruction=instruction)).message


# -- context sources --


def test_the_sources_of_the_package_are_installed() -> None:
    assert {"host.status", "activity-core.last_run", "state-hub.health", "state-hub.repos"} <= set(source_names())


def test_an_unknown_source_names_the_nearest_and_all_installed() -> None:
    text = text_of(more="context:\n  - {kind: state-hub.helth, bind: x}\n")
    found = problem(text)
    assert (found.line, found.column) == (5, column_of(text, 5, "state-hub"))
    assert "no context source 'state-hub.helth' is installed; did you mean 'state-hub.health'?" in found.message
    for name in ("http_get", *source_names()):
        assert name in found.message


def test_an_unknown_key_for_a_source_names_the_nearest() -> None:
    text = text_of(more="context:\n  - {kind: state-hub.repos, bind: x, statsu: active}\n")
    found = problem(text)
    assert (found.line, found.column) == (5, column_of(text, 5, "statsu"))
    assert "state-hub.repos has no key 'statsu'; did you mean 'status'?" in found.message


def test_a_key_of_another_source_is_unknown() -> None:
    text = text_of(more="context:\n  - {kind: state-hub.health, bind: x, status: active}\n")
    assert "state-hub.health has no key 'status'; valid here: bind, kind" in problem(text).message


def test_a_key_of_a_source_that_has_the_wrong_kind_is_told_what_was_found() -> None:
    text = text_of(more="context:\n  - {kind: state-hub.repos, bind: x, status: [a]}\n")
    found = problem(text)
    assert (found.line, found.column) == (5, column_of(text, 5, "[a]"))
    assert "status must be of type str, found ['a']" in found.message


def test_the_key_of_a_source_reaches_its_arguments() -> None:
    definition = loaded(text_of(more="context:\n  - {kind: state-hub.repos, bind: x, status: archived}\n"))
    assert dict(definition.context[0].arguments) == {"status": "archived"}


def test_a_bind_is_taken_once() -> None:
    text = text_of(more="context:\n  - {kind: state-hub.repos, bind: hub}\n  - {kind: state-hub.health, bind: hub}\n")
    found = problem(text)
    assert (found.line, found.column) == (6, column_of(text, 6, "hub}"))
    assert "the bind 'hub' is taken by query 1" in found.message


@pytest.mark.parametrize("name", ["slot", "event"])
def test_a_bind_may_not_be_a_name_that_rules_already_know(name: str) -> None:
    text = text_of(more=f"context:\n  - {{kind: state-hub.health, bind: {name}}}\n")
    found = problem(text)
    assert (found.line, found.column) == (5, column_of(text, 5, f"{name}}}"))
    assert "choose another" in found.message


def test_everything_wrong_with_expressions_and_sources_is_told_at_once() -> None:
    found = problems(text_of(more="context:\n  - {kind: no.such, bind: x}\nrule: {when: [nope]}\n"))
    assert [each.line for each in found] == [5, 6]


# -- files --


def test_a_plain_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"id: a\r\n")
    assert read_file(path) == b"id: a\r\n"


@pytest.mark.parametrize("target", ["secret.txt", "nowhere"])
def test_a_symbolic_link_is_refused_and_its_target_not_read(tmp_path: Path, target: str) -> None:
    (tmp_path / "secret.txt").write_text("the secret")
    path = tmp_path / "a.yaml"
    path.symlink_to(tmp_path / target)
    found = refusal_of(path)
    assert "symbolic link" in found.message
    assert "secret" not in found.message


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    assert "No such file" in refusal_of(tmp_path / "a.yaml").message


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    os.mkfifo(path)
    assert "not a plain file" in refusal_of(path).message


def test_the_largest_file_is_read_and_one_byte_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"#" * MAX_BYTES)
    assert len(read_file(path)) == MAX_BYTES
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    assert "1,048,577 bytes; at most 1,048,576" in refusal_of(path).message


MEASURE = """
import resource, sys, time
from pathlib import Path
from activity_core.catalog.load import load, read_file
from activity_core.errors import DefinitionError

path = Path(sys.argv[1])
before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.monotonic()
try:
    load(read_file(path), str(path))
except DefinitionError as failure:
    print(time.monotonic() - began)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib)
    print(failure)
"""


def alias_bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(alias_bomb(), "aliases expanded", id="alias bomb"),
        pytest.param("[" * 20_000, "deeper than 32", id="20,000 levels"),
        pytest.param("a: 'x'\n" + "#" * (100 << 20), "at most 1,048,576", id="100 MB"),
    ],
)
def test_a_hostile_file_is_refused_in_under_a_second_and_200_mb(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    took_s, grown_kib, message = done.stdout.split("\n", 2)
    assert said in message
    assert float(took_s) < 1
    assert int(grown_kib) < 200 << 10


# -- names of content and of triggers --


def test_content_is_named_by_the_sha_256_of_its_bytes() -> None:
    assert content_hash(b"id: a\n") == hashlib.sha256(b"id: a\n").hexdigest()


def test_equal_schedules_have_one_trigger_hash_and_others_another() -> None:
    daily = CronSchedule(expression="@daily", timezone="UTC")
    assert trigger_hash_of(daily) == trigger_hash_of(CronSchedule(expression="@daily", timezone="UTC"))
    others = [
        CronSchedule(expression="@hourly", timezone="UTC"),
        CronSchedule(expression="@daily", timezone="Europe/Berlin"),
    ]
    assert len({trigger_hash_of(each) for each in [daily, *others]}) == 3


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        ('{trigger_type: cron, cron_expression: "0 3 * * *"}', "0 3 * * * UTC"),
        ("{trigger_type: calendar, on_calendar: daily, timezone: Europe/Berlin}", "daily Europe/Berlin"),
        ("{trigger_type: interval, every: 90m}", "every 1h30m"),
        ("{trigger_type: event, event_type: org.repo.commit.pushed}", "event org.repo.commit.pushed"),
    ],
)
def test_a_schedule_is_described_in_a_few_words(trigger: str, words: str) -> None:
    assert describe_schedule(loaded(text_of(trigger=trigger)).schedule) == words
