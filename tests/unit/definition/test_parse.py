from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from activity_core.definition.build import build
from activity_core.definition.model import (
    CalendarSchedule,
    Concurrency,
    CronSchedule,
    Debounce,
    Definition,
    EventSubscription,
    ForEach,
    IntervalSchedule,
    Limits,
    MisfirePolicy,
    OnFailure,
    OnInterrupt,
    OverlapPolicy,
    missing_features,
)
from activity_core.definition.parse import parse
from activity_core.errors import DefinitionError
from activity_plumbing.clock import DAY_US, MINUTE_US, SECOND_US, parse_instant

if TYPE_CHECKING:
    from activity_plumbing.yaml_document import Problem

SEED = Path(__file__).parents[2] / "seed"

EVERY_KEY = """\
id: the-custodian.state-hub-consistency-sweep   # unique over everything ingested
description: text
enabled: true
trigger:
  trigger_type: cron            # cron | calendar | interval | event
  cron_expression: "*/15 * * * *"   # 5 fields, names, L W #, @daily and friends
  timezone: Europe/Berlin       # IANA; default UTC
  misfire_policy: skip          # skip (default) | run_once | run_all
  overlap_policy: skip          # skip | queue_one | queue_all | replace | allow
  misfire_grace: 60s            # this late still counts as on time
  catchup_window: 1d            # older missed slots are recorded, never run
  jitter: 0s
context:
  - {kind: http_get, url: "http://127.0.0.1:8000/state/health", bind: hub_health, timeout: 5s}
  - {kind: state-hub.repos, bind: hub_repos}    # a named source from an adapter
rule:
  when: ["hub_health.status == 'ok'"]           # CEL, all must be true
for_each: {items: "hub_repos", as: repo, key: "repo.slug", max_parallel: 4}
instruction:
  kind: shell
  cmd: make fix-consistency REPO="$ACTIVITY_ITEM_SLUG"
  cwd: /srv/state-hub
  env: {KEY: value}
  secrets: [HUB_TOKEN]
  timeout: 10m
  kill_grace: 10s
  limits: {memory: 1G, processes: 256}
  concurrency: {key: custodian-sweep, limit: 1} # or key_expr: CEL, for one key per repo
  exit_codes: {75: skipped}     # what an exit status other than 0 means, where not "failed"
  retry: {max_attempts: 1, delay: 10s, backoff: 2, max_delay: 5m}
  on_interrupt: fail            # fail | retry : the engine or machine died in mid-run
  on_failure: notify            # notify (default) | log_and_continue | pause
  runs_on: [label]              # fleet: which workers may take it
  run_as: user                  # another OS account
"""
"""DESIGN 3's block, as it stands there."""

CRON = '{trigger_type: cron, cron_expression: "@daily"}'
SHELL = "{kind: shell, cmd: make clean}"


def text_of(*, trigger: str = CRON, instruction: str = SHELL, more: str = "") -> str:
    """Line 1 the id, line 2 the trigger, line 3 the instruction, from line 4 whatever comes beside them."""
    return f"id: my-team.tidy\ntrigger: {trigger}\ninstruction: {instruction}\n{more}"


def parsed(text: str) -> Definition:
    return parse(text.encode(), "here.yaml")[0]


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(DefinitionError) as caught:
        parsed(text)
    return caught.value.problems


def problem(text: str) -> Problem:
    (only,) = problems(text)
    assert only.path == "here.yaml"
    return only


def column_of(text: str, line: int, part: str) -> int:
    return text.splitlines()[line - 1].index(part) + 1


def cron(more: str) -> str:
    return f'{{trigger_type: cron, cron_expression: "@daily", {more}}}'


def shell(more: str) -> str:
    return f"{{kind: shell, cmd: make clean, {more}}}"


# -- the seed's three examples --


def test_example_a_of_the_seed_loads_as_written() -> None:
    definition = parsed((SEED / "state-hub-consistency-sweep.yaml").read_text())
    assert definition.id == "the-custodian.state-hub-consistency-sweep"
    assert definition.description.startswith("Sweep all registered repos: pull, reconcile workplan files ↔ DB,\n")
    assert definition.enabled
    assert definition.schedule == CronSchedule(expression="*/15 * * * *", timezone="UTC")
    assert definition.policy.misfire is MisfirePolicy.SKIP
    (query,) = definition.context
    assert (query.kind, query.bind) == ("http_get", "hub_health")
    assert query.arguments["url"] == "http://127.0.0.1:8000/state/health"
    assert definition.when == ("hub_health.status == 'ok'",)
    assert definition.instruction.cmd == (
        "cd /home/worsch/state-hub && .venv/bin/python scripts/consistency_check.py --remote --all --max-seconds 300"
    )
    assert definition.instruction.on_failure is OnFailure.LOG_AND_CONTINUE
    assert missing_features(definition) == ()


def test_example_b_of_the_seed_loads_as_written() -> None:
    definition = parsed((SEED / "state-hub-stale-task-cleanup.yaml").read_text())
    assert definition.id == "the-custodian.state-hub-stale-task-cleanup"
    assert definition.schedule == CronSchedule(expression="0 3 * * *", timezone="UTC")
    assert definition.context == ()
    assert definition.when == ()
    assert definition.instruction.cmd == (
        "cd /home/worsch/state-hub && .venv/bin/python scripts/cleanup_stale_tasks.py"
    )
    assert definition.instruction.on_failure is OnFailure.NOTIFY
    assert missing_features(definition) == ()


def test_example_c_of_the_seed_loads_as_written_and_what_it_lacks_is_named() -> None:
    definition = parsed((SEED / "per-commit-consistency-sync.yaml").read_text())
    assert isinstance(definition.schedule, EventSubscription)
    assert definition.schedule.event_type == "org.repo.commit.pushed"
    assert definition.schedule.filters == {"repo_slug": "*"}
    assert not definition.is_scheduled
    assert missing_features(definition) == ("trigger_type: event",)


# -- every key --


def test_every_documented_key_parses() -> None:
    definition = parsed(EVERY_KEY)
    assert definition.enabled
    assert definition.schedule == CronSchedule(expression="*/15 * * * *", timezone="Europe/Berlin")
    policy = definition.policy
    assert (policy.misfire, policy.overlap) == (MisfirePolicy.SKIP, OverlapPolicy.SKIP)
    assert (policy.grace_us, policy.window_us, policy.jitter_us) == (60 * SECOND_US, DAY_US, 0)
    asked, named = definition.context
    assert dict(asked.arguments) == {"url": "http://127.0.0.1:8000/state/health", "timeout": "5s"}
    assert (named.kind, named.bind, dict(named.arguments)) == ("state-hub.repos", "hub_repos", {})
    assert definition.for_each == ForEach(items="hub_repos", name="repo", key="repo.slug", max_parallel=4)
    instruction = definition.instruction
    assert instruction.cmd == 'make fix-consistency REPO="$ACTIVITY_ITEM_SLUG"'
    assert instruction.cwd == "/srv/state-hub"
    assert instruction.env == {"KEY": "value"}
    assert instruction.secrets == ("HUB_TOKEN",)
    assert (instruction.timeout_us, instruction.kill_grace_us) == (10 * MINUTE_US, 10 * SECOND_US)
    assert instruction.limits == Limits(memory_bytes=1 << 30, processes=256, cpu_us=None, file_size_bytes=None)
    assert instruction.concurrency == Concurrency(key="custodian-sweep", key_expr=None, limit=1)
    assert instruction.exit_codes == {75: "skipped"}
    assert (instruction.retry.max_attempts, instruction.retry.delay_us) == (1, 10 * SECOND_US)
    assert (instruction.retry.backoff, instruction.retry.max_delay_us) == (2, 5 * MINUTE_US)
    assert instruction.on_interrupt is OnInterrupt.FAIL
    assert instruction.on_failure is OnFailure.NOTIFY
    assert instruction.runs_on == ("label",)
    assert instruction.run_as == "user"


def test_a_key_that_is_parsed_but_not_run_yet_is_named_as_written() -> None:
    assert missing_features(parsed(EVERY_KEY)) == ("limits", "runs_on", "run_as")


def test_replace_as_overlap_policy_is_named_as_not_run_yet() -> None:
    assert missing_features(parsed(text_of(trigger=cron("overlap_policy: replace")))) == ("overlap_policy: replace",)


def test_what_is_left_out_takes_its_documented_default() -> None:
    definition = parsed(text_of())
    assert definition.enabled
    assert definition.schedule == CronSchedule(expression="@daily", timezone="UTC")
    assert definition.policy.misfire is MisfirePolicy.SKIP
    assert definition.policy.overlap is OverlapPolicy.SKIP
    assert (definition.policy.grace_us, definition.policy.window_us) == (60 * SECOND_US, DAY_US)
    assert definition.instruction.on_interrupt is OnInterrupt.FAIL
    assert definition.instruction.on_failure is OnFailure.NOTIFY
    assert definition.instruction.retry.max_attempts == 1
    assert definition.instruction.timeout_us is None
    assert definition.instruction.kill_grace_us == 10 * SECOND_US


def test_a_calendar_trigger_parses_and_is_named_as_not_run_yet() -> None:
    trigger = '{trigger_type: calendar, on_calendar: "Mon..Fri *-*-* 02:00", timezone: Europe/Berlin}'
    definition = parsed(text_of(trigger=trigger))
    assert definition.schedule == CalendarSchedule(expression="Mon..Fri *-*-* 02:00", timezone="Europe/Berlin")
    assert missing_features(definition) == ("trigger_type: calendar",)


def test_an_interval_trigger_parses() -> None:
    definition = parsed(text_of(trigger="{trigger_type: interval, every: 15m, anchor: 2026-01-01T00:00Z}"))
    assert definition.schedule == IntervalSchedule(every_us=15 * MINUTE_US, anchor=parse_instant("2026-01-01T00:00Z"))


def test_an_interval_is_anchored_at_the_epoch_by_default() -> None:
    definition = parsed(text_of(trigger="{trigger_type: interval, every: 1h30m}"))
    assert definition.schedule == IntervalSchedule(every_us=90 * MINUTE_US, anchor=parse_instant("1970-01-01"))


def test_an_event_trigger_parses_with_all_its_keys() -> None:
    definition = parsed(
        text_of(
            trigger='{trigger_type: event, event_type: org.repo.*, filters: {repo_slug: "a-*"},'
            ' when: "event.data.n > 1", debounce: {for: 5s, key: event.data.repo_slug}, overlap_policy: queue_one}'
        )
    )
    assert definition.schedule == EventSubscription(
        event_type="org.repo.*",
        filters={"repo_slug": "a-*"},
        when="event.data.n > 1",
        debounce=Debounce(for_us=5 * SECOND_US, key="event.data.repo_slug"),
    )
    assert definition.policy.overlap is OverlapPolicy.QUEUE_ONE


def test_events_queue_all_by_default() -> None:
    definition = parsed(text_of(trigger="{trigger_type: event, event_type: a.b}"))
    assert definition.policy.overlap is OverlapPolicy.QUEUE_ALL


@pytest.mark.parametrize(
    ("misfire", "overlap"),
    [
        ("skip", OverlapPolicy.SKIP),
        ("run_once", OverlapPolicy.QUEUE_ONE),
        ("run_all", OverlapPolicy.QUEUE_ALL),
    ],
)
def test_misfire_policy_rules_overlap_too(misfire: str, overlap: OverlapPolicy) -> None:
    policy = parsed(text_of(trigger=cron(f"misfire_policy: {misfire}"))).policy
    assert (policy.misfire, policy.overlap) == (MisfirePolicy(misfire), overlap)


def test_overlap_policy_overrides_the_overlap_half_alone() -> None:
    policy = parsed(text_of(trigger=cron("misfire_policy: run_all, overlap_policy: allow"))).policy
    assert (policy.misfire, policy.overlap) == (MisfirePolicy.RUN_ALL, OverlapPolicy.ALLOW)


def test_a_concurrency_key_may_be_an_expression() -> None:
    definition = parsed(text_of(instruction=shell('concurrency: {key_expr: "string(slot)"}')))
    assert definition.instruction.concurrency == Concurrency(key=None, key_expr="string(slot)", limit=1)


def test_limits_on_cpu_time_and_file_size_parse() -> None:
    definition = parsed(text_of(instruction=shell("limits: {cpu: 90s, file_size: 1.5K}")))
    assert definition.instruction.limits == Limits(
        memory_bytes=None, processes=None, cpu_us=90 * SECOND_US, file_size_bytes=1536
    )


def test_a_disabled_definition_parses() -> None:
    assert not parsed(text_of(more="enabled: false\n")).enabled


def test_numbers_and_nulls_are_read_as_what_they_are() -> None:
    definition = parsed(text_of(instruction=shell("retry: {max_attempts: 3, backoff: 1.5}"), more="rule: null\n"))
    assert definition.instruction.retry.max_attempts == 3
    assert definition.instruction.retry.backoff == 1.5
    assert definition.when == ()


def test_a_byte_order_mark_and_carriage_returns_change_nothing() -> None:
    text = text_of(more="description: |\n  two\n  lines\n")
    with_both = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    assert parse(with_both, "here.yaml")[0] == parsed(text)


@pytest.mark.parametrize("name", sorted(path.name for path in SEED.iterdir()))
def test_plain_values_that_went_through_json_build_the_same_definition(name: str) -> None:
    definition, plain, _ = parse((SEED / name).read_bytes(), name)
    assert build(json.loads(json.dumps(plain))) == definition


def test_plain_values_of_every_key_that_went_through_json_build_the_same_definition() -> None:
    definition, plain, _ = parse(EVERY_KEY.encode(), "here.yaml")
    assert build(json.loads(json.dumps(plain))) == definition


# -- misspelt and missing keys --


@pytest.mark.parametrize(
    ("text", "line", "misspelt", "meant"),
    [
        pytest.param(text_of(more="descripton: x\n"), 4, "descripton", "description", id="top"),
        pytest.param(text_of(trigger=cron("timezon: UTC")), 2, "timezon", "timezone", id="cron"),
        pytest.param(text_of(trigger=cron("misfire_polcy: skip")), 2, "misfire_polcy", "misfire_policy", id="policy"),
        pytest.param(
            text_of(trigger="{trigger_type: calendar, on_calendar: daily, time_zone: UTC}"),
            2,
            "time_zone",
            "timezone",
            id="calendar",
        ),
        pytest.param(
            text_of(trigger="{trigger_type: interval, every: 1h, ancor: 2026-01-01T00:00Z}"),
            2,
            "ancor",
            "anchor",
            id="interval",
        ),
        pytest.param(
            text_of(trigger="{trigger_type: event, event_type: a.b, filter: {}}"), 2, "filter", "filters", id="event"
        ),
        pytest.param(
            text_of(trigger="{trigger_type: event, event_type: a.b, debounce: {for: 5s, kee: x}}"),
            2,
            "kee",
            "key",
            id="debounce",
        ),
        pytest.param(
            text_of(more='context:\n  - {kind: http_get, url: "http://a/", bind: x, time_out: 5s}\n'),
            5,
            "time_out",
            "timeout",
            id="http_get",
        ),
        pytest.param(text_of(more="rule:\n  when: ['true']\n  wen: x\n"), 6, "wen", "when", id="rule"),
        pytest.param(
            text_of(more="for_each: {items: a, as: b, key: c, max_paralel: x}\n"),
            4,
            "max_paralel",
            "max_parallel",
            id="for_each",
        ),
        pytest.param(text_of(instruction=shell("timout: 5s")), 3, "timout", "timeout", id="instruction"),
        pytest.param(
            text_of(instruction=shell("retry: {max_atempts: x}")), 3, "max_atempts", "max_attempts", id="retry"
        ),
        pytest.param(text_of(instruction=shell("limits: {memry: 1G}")), 3, "memry", "memory", id="limits"),
        pytest.param(
            text_of(instruction=shell("concurrency: {key: a, limt: x}")), 3, "limt", "limit", id="concurrency"
        ),
    ],
)
def test_a_misspelt_key_names_the_nearest(text: str, line: int, misspelt: str, meant: str) -> None:
    found = problem(text)
    assert (found.line, found.column) == (line, column_of(text, line, misspelt))
    assert f"unknown key '{misspelt}'; did you mean '{meant}'?" in found.message


def test_an_unknown_key_that_resembles_none_is_told_which_are_valid() -> None:
    found = problem(text_of(more="zzz: 'x'\n"))
    assert (found.line, found.column) == (4, 1)
    assert "valid here: context, description, enabled, for_each, id, instruction, rule, trigger" in found.message


@pytest.mark.parametrize(("key", "hint"), [("id", "id: "), ("trigger", "cron_expression"), ("instruction", "cmd: ")])
def test_a_missing_part_is_named_with_an_example(key: str, hint: str) -> None:
    text = "\n".join(line for line in text_of().splitlines() if not line.startswith(f"{key}:"))
    found = problem(text)
    assert (found.line, found.column) == (1, 1)
    assert f"the key '{key}' is missing" in found.message
    assert hint in found.message


@pytest.mark.parametrize(
    ("text", "line", "part", "key"),
    [
        pytest.param(text_of(trigger="{trigger_type: cron}"), 2, "trigger", "cron_expression", id="cron"),
        pytest.param(text_of(trigger="{trigger_type: calendar}"), 2, "trigger", "on_calendar", id="calendar"),
        pytest.param(text_of(trigger="{trigger_type: interval}"), 2, "trigger", "every", id="interval"),
        pytest.param(text_of(trigger="{trigger_type: event}"), 2, "trigger", "event_type", id="event"),
        pytest.param(text_of(trigger='{cron_expression: "@daily"}'), 2, "trigger", "trigger_type", id="type"),
        pytest.param(text_of(instruction="{kind: shell}"), 3, "instruction", "cmd", id="cmd"),
        pytest.param(text_of(instruction="{cmd: make}"), 3, "instruction", "kind", id="kind"),
        pytest.param(text_of(more="rule: {}\n"), 4, "rule", "when", id="when"),
        pytest.param(text_of(more="context:\n  - {kind: state-hub.health}\n"), 5, "{kind", "bind", id="bind"),
        pytest.param(text_of(more="context:\n  - {kind: http_get, bind: x}\n"), 5, "{kind", "url", id="url"),
        pytest.param(text_of(more="for_each: {items: a, as: b}\n"), 4, "for_each", "key", id="for_each"),
    ],
)
def test_a_missing_key_is_named_where_its_mapping_stands(text: str, line: int, part: str, key: str) -> None:
    found = problem(text)
    assert (found.line, found.column) == (line, column_of(text, line, part))
    assert f"the key '{key}' is missing" in found.message


def test_a_trigger_without_a_type_is_told_which_there_are() -> None:
    assert "one of cron, calendar, interval, event" in problem(text_of(trigger="{timezone: UTC}")).message


def test_everything_wrong_in_one_file_is_told_in_the_order_of_its_lines() -> None:
    found = problems(
        text_of(trigger=cron("timezon: UTC"), instruction=shell("on_failure: shout"), more="descripton: x\n")
    )
    assert [each.line for each in found] == [2, 3, 4]


# -- wrong values --


@pytest.mark.parametrize(
    ("text", "line", "wrong", "said"),
    [
        pytest.param(
            text_of(trigger='{trigger_type: chron, cron_expression: "@daily"}'),
            2,
            "chron",
            "found 'chron'; did you mean 'cron'? (valid: cron, calendar, interval, event)",
            id="trigger_type",
        ),
        pytest.param(
            text_of(trigger=cron("misfire_policy: runonce")),
            2,
            "runonce",
            "found 'runonce'; did you mean 'run_once'? (valid: skip, run_once, run_all)",
            id="misfire_policy",
        ),
        pytest.param(
            text_of(trigger=cron("overlap_policy: queue")),
            2,
            "queue}",
            "found 'queue'; did you mean 'queue_one'? (valid: skip, queue_one, queue_all, replace, allow)",
            id="overlap_policy",
        ),
        pytest.param(
            text_of(instruction="{kind: bash, cmd: make}"), 3, "bash", "found 'bash'; valid here: shell", id="kind"
        ),
        pytest.param(
            text_of(instruction=shell("on_failure: log_and_contine")),
            3,
            "log_and",
            "did you mean 'log_and_continue'? (valid: notify, log_and_continue, pause)",
            id="on_failure",
        ),
        pytest.param(
            text_of(instruction=shell("on_failure: shout")),
            3,
            "shout",
            "found 'shout'; valid here: log_and_continue, notify, pause",
            id="on_failure far off",
        ),
        pytest.param(
            text_of(instruction=shell("on_interrupt: fial")),
            3,
            "fial",
            "found 'fial'; did you mean 'fail'? (valid: fail, retry)",
            id="on_interrupt",
        ),
        pytest.param(
            text_of(instruction=shell("exit_codes: {75: skiped}")),
            3,
            "skiped",
            "found 'skiped'; did you mean 'skipped'? (valid: skipped, succeeded, failed)",
            id="exit_codes",
        ),
        pytest.param(
            text_of(more="context:\n  - {kind: http_gt, url: 'http://a/', bind: x}\n"),
            5,
            "http_gt",
            "found 'http_gt'; did you mean 'http_get'?",
            id="context kind",
        ),
        pytest.param(
            text_of(trigger=cron("timezone: Europe/Berln")),
            2,
            "Europe",
            "'Europe/Berln' is not a known IANA time zone; did you mean 'Europe/Berlin'?",
            id="timezone",
        ),
        pytest.param(
            text_of(trigger=cron("timezone: ../../etc/passwd")),
            2,
            "../",
            "not a known IANA time zone",
            id="timezone as path",
        ),
        pytest.param(
            text_of(trigger='{trigger_type: cron, cron_expression: "61 * * * *"}'),
            2,
            '"61',
            "'61 * * * *': bad minute",
            id="minute",
        ),
        pytest.param(
            text_of(trigger='{trigger_type: cron, cron_expression: "* * * * * *"}'),
            2,
            '"*',
            "has 6 fields; cron takes five (minute hour day-of-month month day-of-week)",
            id="six fields",
        ),
        pytest.param(
            text_of(trigger='{trigger_type: cron, cron_expression: "@reboot"}'), 2, '"@', "@daily", id="alias"
        ),
        pytest.param(
            text_of(trigger='{trigger_type: cron, cron_expression: "0 0 31 2 *"}'), 2, '"0', "day", id="31 February"
        ),
        pytest.param(
            text_of(trigger=cron("misfire_grace: 60 parsecs")),
            2,
            "60 parsecs",
            "'60 parsecs' is not a duration; write for example 30s, 5m, 1h30m or 7d",
            id="duration",
        ),
        pytest.param(text_of(trigger=cron("misfire_grace: 999ms")), 2, "999ms", "at least 1s", id="grace"),
        pytest.param(
            text_of(trigger="{trigger_type: interval, every: 0s}"), 2, "0s", "longer than zero", id="no time at all"
        ),
        pytest.param(
            text_of(trigger="{trigger_type: interval, every: 1h, anchor: noon}"),
            2,
            "noon",
            "'noon' is not a time; write ISO 8601 such as 2026-01-01T00:00Z",
            id="anchor",
        ),
        pytest.param(
            text_of(trigger='{trigger_type: event, event_type: "org.*.pushed"}'),
            2,
            '"org',
            "a * may stand only at the end, as in org.repo.*",
            id="event_type",
        ),
        pytest.param(
            text_of(instruction=shell("limits: {memory: 1X}")),
            3,
            "1X",
            "'1X' is not a size; write for example 512M or 1G",
            id="size",
        ),
        pytest.param(
            text_of(instruction=shell("concurrency: {}")),
            3,
            "{}",
            "give exactly one of key and key_expr",
            id="no concurrency key",
        ),
        pytest.param(
            text_of(instruction=shell("concurrency: {key: a, key_expr: b}")),
            3,
            "{key: a",
            "give exactly one of key and key_expr",
            id="two concurrency keys",
        ),
        pytest.param(
            text_of(instruction=shell("env: {ACTIVITY_ID: x}")),
            3,
            "ACTIVITY_ID",
            "names that start with ACTIVITY_ are the engine's own",
            id="env of the engine",
        ),
        pytest.param(text_of(instruction="{kind: shell, cmd: ' '}"), 3, "' '", "the command is empty", id="empty cmd"),
        pytest.param(
            text_of(instruction='{kind: shell, cmd: "a\\0b"}'), 3, '"a', "a NUL character cannot reach", id="NUL"
        ),
        pytest.param(
            text_of(instruction=shell('env: {A: "a\\0b"}')), 3, '"a\\0', "a NUL character cannot reach", id="NUL in env"
        ),
        pytest.param(
            text_of(more="context:\n  - {kind: http_get, url: 'file:///etc/passwd', bind: x}\n"),
            5,
            "'file",
            "'file:///etc/passwd' does not look right here",
            id="url",
        ),
        pytest.param(
            text_of(more="context:\n  - {kind: state-hub.health, bind: slot}\n"),
            5,
            "slot",
            "'slot' is a name that rules already know",
            id="bind slot",
        ),
        pytest.param(
            text_of(more="context:\n  - {kind: state-hub.health, bind: event}\n"),
            5,
            "event",
            "'event' is a name that rules already know",
            id="bind event",
        ),
        pytest.param(
            text_of(more="for_each: {items: a, as: slot, key: b}\n"),
            4,
            "slot",
            "'slot' is a name that rules already know",
            id="item named slot",
        ),
        pytest.param(text_of(more="rule: {when: []}\n"), 4, "[]", "at least 1", id="empty rule"),
    ],
)
def test_a_wrong_value_is_told_with_its_place_and_what_would_be_valid(
    text: str, line: int, wrong: str, said: str
) -> None:
    found = problem(text)
    assert (found.line, found.column) == (line, column_of(text, line, wrong))
    assert said in found.message


@pytest.mark.parametrize("name", ["a b", "../x", ".a", "a..b", "a.", "ä", "", "a/b", "a\\n", "-a"])
def test_an_id_is_a_dotted_name(name: str) -> None:
    text = text_of().replace("my-team.tidy", f'"{name}"')
    found = problem(text)
    assert (found.line, found.column) == (1, 5)
    assert "does not look right here; it must match" in found.message


def test_an_id_of_more_than_200_characters_is_refused() -> None:
    assert "at most 200 characters" in problem(text_of().replace("my-team.tidy", "a" * 201)).message


@pytest.mark.parametrize(
    ("text", "line", "wrong", "said"),
    [
        pytest.param(text_of(trigger="[a]"), 2, "[a]", "trigger: must be", id="trigger list"),
        pytest.param(text_of(trigger="cron"), 2, "cron", "found the text 'cron'", id="trigger text"),
        pytest.param(text_of(instruction="[a]"), 3, "[a]", "found a list", id="instruction list"),
        pytest.param(text_of(instruction="{kind: shell, cmd: [a, b]}"), 3, "[a", "found a list", id="cmd list"),
        pytest.param(text_of(instruction=shell("env: [A]")), 3, "[A]", "found a list", id="env list"),
        pytest.param(text_of(instruction=shell("secrets: A")), 3, "A}", "found the text 'A'", id="secrets text"),
        pytest.param(text_of(more="context: {kind: x}\n"), 4, "{kind", "found a mapping", id="context mapping"),
        pytest.param(text_of(more="rule: 'true'\n"), 4, "'true'", "found the text 'true'", id="rule text"),
        pytest.param(text_of(more="rule: {when: 'true'}\n"), 4, "'true'", "found the text 'true'", id="when text"),
        pytest.param(text_of(more="enabled: 'true'\n"), 4, "'true'", "found the text 'true'", id="quoted boolean"),
        pytest.param(
            text_of(instruction=shell("retry: {max_attempts: '2'}")), 3, "'2'", "found the text '2'", id="quoted number"
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_what_was_found(text: str, line: int, wrong: str, said: str) -> None:
    found = problem(text)
    assert (found.line, found.column) == (line, column_of(text, line, wrong))
    assert "must be" in found.message
    assert said in found.message


@pytest.mark.parametrize(
    ("text", "line", "wrong", "said"),
    [
        pytest.param(
            text_of(instruction="{kind: shell, cmd: 3}"), 3, "3}", "found the number 3; quote it", id="cmd number"
        ),
        pytest.param(
            text_of(instruction="{kind: shell, cmd: true}"), 3, "true", "found the boolean true", id="cmd boolean"
        ),
        pytest.param(text_of(instruction=shell("env: {A: 3}")), 3, "3}", "found the number 3; quote it", id="env"),
        pytest.param(text_of(trigger=cron("jitter: 60")), 2, "60", "found the number 60; quote it", id="jitter"),
        pytest.param(
            text_of(trigger="{trigger_type: event, event_type: a, filters: {size: 3}}"),
            2,
            "3}",
            "found the number 3; quote it",
            id="filter",
        ),
        pytest.param(text_of(more="rule: {when: [true]}\n"), 4, "true", "found the boolean true", id="when"),
        pytest.param(text_of(instruction=shell("limits: {memory: 1024}")), 3, "1024", "found the number", id="size"),
        pytest.param(
            text_of(instruction=shell("retry: {max_attempts: true}")), 3, "true", "found the boolean", id="attempts"
        ),
        pytest.param(text_of(trigger="{trigger_type: 3}"), 2, "3", "found 3; valid here: calendar, cron", id="type"),
        pytest.param(text_of(more="id2: x\n").replace("id2: x", "context: ~"), 4, "~", "found nothing", id="null"),
    ],
)
def test_a_number_a_boolean_or_a_null_is_not_taken_for_text(text: str, line: int, wrong: str, said: str) -> None:
    found = problem(text)
    assert (found.line, found.column) == (line, column_of(text, line, wrong))
    assert said in found.message


@pytest.mark.parametrize(
    ("text", "line", "wrong", "said"),
    [
        (text_of(instruction=shell("retry: {max_attempts: 0}")), 3, "0}", "greater than or equal to 1"),
        (text_of(instruction=shell("retry: {max_attempts: 101}")), 3, "101", "less than or equal to 100"),
        (text_of(instruction=shell("retry: {backoff: 0.5}")), 3, "0.5", "greater than or equal to 1"),
        (text_of(instruction=shell("retry: {backoff: 1e999}")), 3, "1e999", "too large; quote it"),
        (text_of(instruction=shell("concurrency: {key: a, limit: 0}")), 3, "0}", "greater than or equal to 1"),
        (text_of(instruction=shell("limits: {processes: 0}")), 3, "0}", "greater than or equal to 1"),
        (text_of(more="for_each: {items: a, as: b, key: c, max_parallel: 0}\n"), 4, "0}", "greater than or equal"),
    ],
)
def test_a_number_outside_its_range_is_told_the_range(text: str, line: int, wrong: str, said: str) -> None:
    found = problem(text)
    assert (found.line, found.column) == (line, column_of(text, line, wrong))
    assert said in found.message


@pytest.mark.parametrize(
    ("status", "said"), [("0", "greater than or equal to 1"), ("256", "less than or equal to 255")]
)
def test_an_exit_status_lies_between_1_and_255(status: str, said: str) -> None:
    text = text_of(instruction=shell(f"exit_codes: {{{status}: skipped}}"))
    found = problem(text)
    assert (found.line, found.column) == (3, column_of(text, 3, f"{status}: "))
    assert said in found.message


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (text_of(more="on: push\n"), (4, 1)),
        (text_of(more="enabled: yes\n"), (4, 10)),
        (text_of(more="description: 12:30\n"), (4, 14)),
        (text_of(more="description: 010\n"), (4, 14)),
    ],
)
def test_what_older_yaml_reads_differently_is_refused_with_its_place(text: str, place: tuple[int, int]) -> None:
    found = problem(text)
    assert (found.line, found.column) == place
    assert "quote it" in found.message


@pytest.mark.parametrize("text", ["- a\n", "hello\n", "~\n"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    assert "a definition is a mapping that starts with id" in problem(text).message


# -- data in commands --


@pytest.mark.parametrize(
    ("inside", "variable"),
    [
        ("event.x", "$ACTIVITY_EVENT_X"),
        (" event.data.repo-slug ", "$ACTIVITY_EVENT_DATA_REPO_SLUG"),
        ("item.slug", "$ACTIVITY_ITEM_SLUG"),
    ],
)
def test_a_placeholder_in_a_command_names_the_environment_variable_to_use(inside: str, variable: str) -> None:
    text = text_of(instruction=f"{{kind: shell, cmd: 'echo {{{{{inside}}}}}'}}")
    found = problem(text)
    assert (found.line, found.column) == (3, column_of(text, 3, "'echo"))
    assert f'"{variable}"' in found.message
    assert "$ACTIVITY_INPUT" in found.message


def test_braces_that_hold_no_placeholder_are_shell_text() -> None:
    assert parsed(text_of(instruction="{kind: shell, cmd: 'echo }} {{ x'}")).instruction.cmd == "echo }} {{ x"


@pytest.mark.parametrize("key", ["misfire_policy: skip", "misfire_grace: 60s", "catchup_window: 1d", "jitter: 5s"])
def test_event_triggers_refuse_what_only_scheduled_ones_have(key: str) -> None:
    text = text_of(trigger=f"{{trigger_type: event, event_type: a.b, {key}}}")
    found = problem(text)
    assert (found.line, found.column) == (2, column_of(text, 2, key))
    assert f"unknown key '{key.split(':')[0]}'" in found.message
