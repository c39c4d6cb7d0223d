from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from activity_core.catalog.catalog import ABSENCE_US, Catalog, Changes
from activity_core.catalog.load import content_hash
from activity_core.catalog.origin import blob_of
from activity_core.definition.model import CronSchedule, DefinitionId
from activity_core.ledger.store import Ledger
from activity_plumbing.clock import SECOND_US, Instant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = DefinitionId("my-team.tidy")


def at(second: float) -> Instant:
    """An instant so many seconds into the test's own time."""
    return Instant(1_700_000_000 * SECOND_US + round(second * SECOND_US))


def text_of(name: str = NAME, *, cron: str = "@daily", cmd: str = "make clean", more: str = "") -> str:
    return (
        f'id: {name}\ntrigger: {{trigger_type: cron, cron_expression: "{cron}"}}\n'
        f"instruction: {{kind: shell, cmd: {cmd}}}\n{more}"
    )


BAD = "id: my-team.tidy\ntrigger: [\n"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "state")
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "definitions"
    made.mkdir()
    return made


@pytest.fixture
def catalog(ledger: Ledger, folder: Path) -> Catalog:
    return Catalog(ledger, [folder])


def save(path: Path, text: str) -> Path:
    """Writes a new file into the old one's place, as editors do, so that its identity changes for certain."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.rename(path)
    return path


def ids(changes: Changes) -> list[str]:
    return sorted(entry.definition.id for entry in changes.in_force)


def cmd_in_force(catalog: Catalog, name: str = NAME) -> str:
    return catalog.in_force[name].definition.instruction.cmd


def cursors_of(ledger: Ledger, name: str = NAME) -> dict[str, Instant]:
    return {trigger: slot for (definition, trigger), slot in ledger.cursors().items() if definition == name}


def cursor(catalog: Catalog, ledger: Ledger, name: str = NAME) -> Instant:
    """Where the trigger that is in force now starts to count."""
    return cursors_of(ledger, name)[catalog.in_force[name].trigger_hash]


def messages(catalog: Catalog, path: Path) -> list[str]:
    return [str(problem) for problem in catalog.problems.get(str(path), ())]


def events(ledger: Ledger, name: str = NAME) -> list[str]:
    return [each.event for each in reversed(ledger.catalog_events(name))]


# -- good files --


def test_a_good_file_is_in_force(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    changes = catalog.scan(at(0))
    assert ids(changes) == [NAME]
    entry = catalog.in_force[NAME]
    assert entry.path == str(path)
    assert entry.version_hash == content_hash(path.read_bytes())
    assert entry.definition.schedule == CronSchedule(expression="@daily", timezone="UTC")
    assert catalog.problems == {}
    record = ledger.definition(NAME)
    assert record is not None
    assert (record.path, record.version_hash, record.removed_at) == (str(path), entry.version_hash, None)
    assert record.in_force_since == at(0)
    assert cursor(catalog, ledger) == at(0)
    assert events(ledger) == ["loaded"]


def test_files_below_subfolders_are_found_and_hidden_ones_are_not(catalog: Catalog, folder: Path) -> None:
    save(folder / "a" / "b" / "one.yml", text_of("x.one"))
    save(folder / "two.yaml", text_of("x.two"))
    save(folder / ".three.yaml", text_of("x.three"))
    save(folder / ".git" / "four.yaml", text_of("x.four"))
    save(folder / "five.yaml.bak", text_of("x.five"))
    assert ids(catalog.scan(at(0))) == ["x.one", "x.two"]


def test_every_folder_is_read(ledger: Ledger, tmp_path: Path) -> None:
    save(tmp_path / "one" / "a.yaml", text_of("x.one"))
    save(tmp_path / "two" / "a.yaml", text_of("x.two"))
    assert ids(Catalog(ledger, [tmp_path / "one", tmp_path / "two"]).scan(at(0))) == ["x.one", "x.two"]


def test_a_folder_that_does_not_exist_is_told_and_the_others_are_read(ledger: Ledger, tmp_path: Path) -> None:
    save(tmp_path / "one" / "a.yaml", text_of("x.one"))
    catalog = Catalog(ledger, [tmp_path / "one", tmp_path / "nowhere"])
    assert ids(catalog.scan(at(0))) == ["x.one"]
    (told,) = messages(catalog, tmp_path / "nowhere")
    assert "does not exist; create it" in told


def test_a_scan_without_changes_changes_nothing(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    assert catalog.scan(at(60)) == Changes()
    assert events(ledger) == ["loaded"]


def test_a_file_that_was_only_touched_changes_nothing(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    os.utime(path)
    assert ids(catalog.scan(at(60))) == []
    assert events(ledger) == ["loaded"]


def test_a_restart_changes_nothing(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    again = Catalog(ledger, [folder])
    assert ids(again.scan(at(3600))) == [NAME]
    assert again.in_force == catalog.in_force
    assert cursors_of(ledger) == {catalog.in_force[NAME].trigger_hash: at(0)}
    assert events(ledger) == ["loaded"]


def test_an_event_trigger_has_no_cursor(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    save(
        folder / "a.yaml",
        f"id: {NAME}\ntrigger: {{trigger_type: event, event_type: a.b}}\ninstruction: {{kind: shell, cmd: make}}\n",
    )
    assert ids(catalog.scan(at(0))) == [NAME]
    assert ledger.cursors() == {}


# -- bad files --


def test_a_bad_file_keeps_its_last_good_version(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of(cmd="make good"))
    catalog.scan(at(0))
    save(path, BAD)
    changes = catalog.scan(at(60))
    assert (ids(changes), list(changes.removed)) == ([], [])
    assert cmd_in_force(catalog) == "make good"
    assert messages(catalog, path)[0].startswith(f"{path}:3:1: not valid YAML")
    record = ledger.definition(NAME)
    assert record is not None
    assert record.removed_at is None
    assert json.loads(record.problem_json or "[]") == messages(catalog, path)
    assert events(ledger) == ["loaded", "refused"]


def test_a_bad_file_keeps_its_last_good_version_after_a_restart(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of(cmd="make good"))
    catalog.scan(at(0))
    save(path, BAD)
    catalog.scan(at(60))
    again = Catalog(ledger, [folder])
    assert ids(again.scan(at(120))) == [NAME]
    assert cmd_in_force(again) == "make good"
    assert again.in_force[NAME] == catalog.in_force[NAME]
    assert messages(again, path)[0].startswith(f"{path}:3:1: ")
    assert cursor(again, ledger) == at(0)


def test_a_file_that_turned_bad_while_nobody_looked_keeps_its_last_good_version(
    catalog: Catalog, ledger: Ledger, folder: Path
) -> None:
    path = save(folder / "tidy.yaml", text_of(cmd="make good"))
    catalog.scan(at(0))
    save(path, BAD)
    again = Catalog(ledger, [folder])
    assert ids(again.scan(at(120))) == [NAME]
    assert cmd_in_force(again) == "make good"
    assert messages(again, path)


def test_a_bad_file_that_never_was_good_is_told_and_not_in_force(
    catalog: Catalog, ledger: Ledger, folder: Path
) -> None:
    path = save(folder / "tidy.yaml", BAD)
    changes = catalog.scan(at(0))
    assert ids(changes) == []
    assert list(changes.problems) == [str(path)]
    assert ledger.definition(NAME) is None


def test_a_problem_is_told_once_and_its_end_too(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    save(path, BAD)
    assert list(catalog.scan(at(60)).problems) == [str(path)]
    assert catalog.scan(at(120)).problems == {}
    save(path, text_of())
    assert catalog.scan(at(180)).problems == {str(path): ()}
    assert catalog.problems == {}
    record = ledger.definition(NAME)
    assert record is not None
    assert record.problem_json is None


def test_a_mended_file_counts_on_from_its_old_cursor(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    save(path, BAD)
    catalog.scan(at(60))
    save(path, text_of(cmd="make better"))
    assert ids(catalog.scan(at(120))) == [NAME]
    assert cmd_in_force(catalog) == "make better"
    assert cursor(catalog, ledger) == at(0)


def test_one_bad_file_among_1000_is_named_with_its_line_and_the_others_load(catalog: Catalog, folder: Path) -> None:
    for number in range(1000):
        (folder / f"{number:04}.yaml").write_text(text_of(f"fleet.n{number}", cmd=f"echo {number}"))
    bad = save(folder / "0500.yaml", "id: fleet.bad\ntrigger: {}\ninstruction: {kind: shell, cmd: make}\n")
    changes = catalog.scan(at(0))
    assert len(changes.in_force) == 999
    assert list(changes.problems) == [str(bad)]
    (told,) = messages(catalog, bad)
    assert told.startswith(f"{bad}:2:1: trigger: the key 'trigger_type' is missing")


@pytest.mark.parametrize("kind", ["not UTF-8", "too large", "pipe", "dangling link"])
def test_one_file_that_cannot_be_read_is_told_and_the_others_load(catalog: Catalog, folder: Path, kind: str) -> None:
    save(folder / "good.yaml", text_of())
    path = folder / "bad.yaml"
    match kind:
        case "not UTF-8":
            path.write_bytes(b"id: a\nb: \xff\n")
        case "too large":
            with path.open("wb") as file:
                file.truncate(100 << 20)
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to(folder / "nowhere")
    assert ids(catalog.scan(at(0))) == [NAME]
    assert list(catalog.problems) == [str(path)]


def test_a_symbolic_link_is_refused_and_its_target_not_read(
    catalog: Catalog, ledger: Ledger, folder: Path, tmp_path: Path
) -> None:
    target = save(tmp_path / "elsewhere" / "secret.yaml", text_of("x.secret"))
    path = folder / "tidy.yaml"
    path.symlink_to(target)
    assert ids(catalog.scan(at(0))) == []
    (told,) = messages(catalog, path)
    assert "symbolic link; definitions are read from plain files only" in told
    assert "x.secret" not in told
    assert ledger.definitions() == []
    assert ledger.version(content_hash(target.read_bytes())) is None


def test_a_file_that_is_replaced_by_a_link_keeps_its_last_good_version(
    catalog: Catalog, folder: Path, tmp_path: Path
) -> None:
    path = save(folder / "tidy.yaml", text_of(cmd="make good"))
    catalog.scan(at(0))
    target = save(tmp_path / "elsewhere.yaml", text_of(cmd="make evil"))
    path.unlink()
    path.symlink_to(target)
    catalog.scan(at(60))
    assert cmd_in_force(catalog) == "make good"
    assert "symbolic link" in messages(catalog, path)[0]


def test_a_link_to_a_folder_is_not_entered(catalog: Catalog, folder: Path, tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "a.yaml", text_of())
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    assert ids(catalog.scan(at(0))) == []
    assert catalog.problems == {}


# -- two files, one id --


def test_a_second_claimant_is_refused_and_the_holder_stays(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    holder = save(folder / "m.yaml", text_of(cmd="make first"))
    catalog.scan(at(0))
    claimant = save(folder / "a.yaml", text_of(cmd="make second"))
    changes = catalog.scan(at(60))
    assert ids(changes) == []
    assert list(changes.problems) == [str(claimant)]
    assert cmd_in_force(catalog) == "make first"
    assert f"the id '{NAME}' belongs to {holder}" in messages(catalog, claimant)[0]
    record = ledger.definition(NAME)
    assert record is not None
    assert (record.path, record.problem_json) == (str(holder), None)


def test_a_second_claimant_is_refused_after_a_restart_too(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    holder = save(folder / "m.yaml", text_of(cmd="make first"))
    catalog.scan(at(0))
    claimant = save(folder / "a.yaml", text_of(cmd="make second"))
    catalog.scan(at(60))
    again = Catalog(ledger, [folder])
    assert ids(again.scan(at(120))) == [NAME]
    assert cmd_in_force(again) == "make first"
    assert again.in_force[NAME].path == str(holder)
    assert list(again.problems) == [str(claimant)]


def test_a_holder_that_turned_bad_keeps_its_id_against_a_claimant(
    catalog: Catalog, ledger: Ledger, folder: Path
) -> None:
    holder = save(folder / "m.yaml", text_of(cmd="make first"))
    catalog.scan(at(0))
    save(holder, BAD)
    claimant = save(folder / "a.yaml", text_of(cmd="make second"))
    for looking in (catalog, Catalog(ledger, [folder])):
        looking.scan(at(60))
        assert cmd_in_force(looking) == "make first"
        assert set(looking.problems) == {str(holder), str(claimant)}


def test_two_claimants_without_a_holder_are_both_refused_and_the_rest_runs(
    catalog: Catalog, ledger: Ledger, folder: Path
) -> None:
    first = save(folder / "a.yaml", text_of(cmd="make first"))
    second = save(folder / "b.yaml", text_of(cmd="make second"))
    save(folder / "c.yaml", text_of("x.other"))
    assert ids(catalog.scan(at(0))) == ["x.other"]
    assert f"also claimed by {second}" in messages(catalog, first)[0]
    assert f"also claimed by {first}" in messages(catalog, second)[0]
    assert ledger.definition(NAME) is None
    again = Catalog(ledger, [folder])
    assert ids(again.scan(at(60))) == ["x.other"]
    assert set(again.problems) == {str(first), str(second)}


def test_two_claimants_with_equal_content_are_both_refused(catalog: Catalog, folder: Path) -> None:
    paths = {str(save(folder / name, text_of())) for name in ("a.yaml", "b.yaml")}
    assert ids(catalog.scan(at(0))) == []
    assert set(catalog.problems) == paths


def test_a_claimant_that_is_left_alone_gets_the_id(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    first = save(folder / "a.yaml", text_of(cmd="make first"))
    second = save(folder / "b.yaml", text_of(cmd="make second"))
    catalog.scan(at(0))
    save(first, text_of("x.other"))
    assert ids(catalog.scan(at(60))) == [NAME, "x.other"]
    assert catalog.problems == {}
    entry = catalog.in_force[NAME]
    assert entry.path == str(second)
    assert ledger.version(entry.version_hash) is not None
    assert cursor(catalog, ledger) == at(60)


def test_two_files_may_swap_their_ids(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    first, second = save(folder / "a.yaml", text_of("x.one")), save(folder / "b.yaml", text_of("x.two"))
    catalog.scan(at(0))
    before = ledger.cursors()
    save(first, text_of("x.two"))
    save(second, text_of("x.one"))
    catalog.scan(at(60))
    assert {name: entry.path for name, entry in catalog.in_force.items()} == {"x.one": str(second), "x.two": str(first)}
    assert catalog.problems == {}
    assert ledger.cursors() == before


# -- absence --


def test_a_file_absent_for_less_than_five_seconds_was_never_absent(
    catalog: Catalog, ledger: Ledger, folder: Path
) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    path.unlink()
    changes = catalog.scan(at(10))
    assert changes.recheck_at == at(15)
    assert (ids(changes), list(changes.removed)) == ([], [])
    assert list(catalog.scan(at(14.999)).removed) == []
    save(path, text_of())
    changes = catalog.scan(at(14.9999))
    assert (ids(changes), list(changes.removed), changes.recheck_at) == ([], [], None)
    assert list(catalog.scan(at(100)).removed) == []
    assert cursor(catalog, ledger) == at(0)
    assert events(ledger) == ["loaded"]


def test_a_file_absent_for_five_seconds_is_removed(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    path.unlink()
    assert catalog.scan(at(10)).recheck_at == at(10) + ABSENCE_US == at(15)
    changes = catalog.scan(at(15))
    assert list(changes.removed) == [NAME]
    assert changes.recheck_at is None
    assert catalog.in_force == {}
    record = ledger.definition(NAME)
    assert record is not None
    assert record.removed_at == at(15)
    assert events(ledger) == ["loaded", "removed"]
    assert ledger.version(record.version_hash) is not None


def test_a_second_absence_is_counted_anew(catalog: Catalog, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    path.unlink()
    catalog.scan(at(10))
    save(path, text_of())
    catalog.scan(at(12))
    path.unlink()
    assert catalog.scan(at(16)).recheck_at == at(21)


def test_a_file_that_was_added_again_starts_a_new_cursor(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    path.unlink()
    catalog.scan(at(10))
    catalog.scan(at(15))
    save(path, text_of())
    assert ids(catalog.scan(at(1000))) == [NAME]
    assert cursor(catalog, ledger) == at(1000)
    assert events(ledger) == ["loaded", "removed", "loaded"]
    record = ledger.definition(NAME)
    assert record is not None
    assert (record.removed_at, record.in_force_since) == (None, at(1000))


def test_a_file_that_was_added_again_after_a_restart_starts_a_new_cursor(
    catalog: Catalog, ledger: Ledger, folder: Path
) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    path.unlink()
    catalog.scan(at(10))
    catalog.scan(at(15))
    save(path, text_of())
    again = Catalog(ledger, [folder])
    again.scan(at(1000))
    assert cursor(again, ledger) == at(1000)


def test_a_removed_id_may_be_held_by_another_file(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    path.unlink()
    catalog.scan(at(10))
    catalog.scan(at(15))
    other = save(folder / "other.yaml", text_of())
    assert ids(catalog.scan(at(20))) == [NAME]
    assert catalog.in_force[NAME].path == str(other)
    assert cursor(catalog, ledger) == at(20)


def test_a_moved_file_keeps_its_id_and_its_cursor(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    moved = path.rename(folder / "neat.yaml")
    changes = catalog.scan(at(10))
    assert (ids(changes), changes.recheck_at) == ([], at(15))
    assert catalog.in_force[NAME].path == str(path)
    changes = catalog.scan(at(15))
    assert (ids(changes), list(changes.removed)) == ([NAME], [])
    assert catalog.in_force[NAME].path == str(moved)
    assert catalog.problems == {}
    assert cursor(catalog, ledger) == at(0)
    assert events(ledger) == ["loaded", "moved"]
    record = ledger.definition(NAME)
    assert record is not None
    assert (record.path, record.in_force_since, record.removed_at) == (str(moved), at(0), None)


def test_a_file_that_was_moved_while_nobody_looked_keeps_its_id_and_its_cursor(
    catalog: Catalog, ledger: Ledger, folder: Path
) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    moved = path.rename(folder / "neat.yaml")
    again = Catalog(ledger, [folder])
    again.scan(at(3600))
    assert again.in_force[NAME].path == str(moved)
    assert cursor(again, ledger) == at(0)


def test_a_file_that_takes_another_id_gives_up_its_own_at_once(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of("x.old"))
    catalog.scan(at(0))
    save(path, text_of("x.new"))
    changes = catalog.scan(at(10))
    assert (ids(changes), list(changes.removed)) == (["x.new"], ["x.old"])
    assert cursor(catalog, ledger, "x.new") == at(10)


# -- changes --


def test_a_changed_schedule_starts_a_new_cursor(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    before = catalog.in_force[NAME].trigger_hash
    save(path, text_of(cron="@hourly"))
    assert ids(catalog.scan(at(60))) == [NAME]
    assert catalog.in_force[NAME].trigger_hash != before
    assert cursor(catalog, ledger) == at(60)
    assert events(ledger) == ["loaded", "changed"]


def test_a_schedule_that_changed_back_starts_a_new_cursor(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    save(path, text_of(cron="@hourly"))
    catalog.scan(at(60))
    save(path, text_of())
    catalog.scan(at(120))
    assert cursor(catalog, ledger) == at(120)


def test_a_schedule_that_changed_while_nobody_looked_starts_a_new_cursor(
    catalog: Catalog, ledger: Ledger, folder: Path
) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    save(path, text_of(cron="@hourly"))
    again = Catalog(ledger, [folder])
    again.scan(at(3600))
    assert cursor(again, ledger) == at(3600)


def test_a_changed_command_keeps_the_cursor(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    before = catalog.in_force[NAME].trigger_hash
    save(path, text_of(cmd="make all"))
    assert ids(catalog.scan(at(60))) == [NAME]
    assert cmd_in_force(catalog) == "make all"
    assert cursors_of(ledger) == {before: at(0)}
    assert events(ledger) == ["loaded", "changed"]


def test_a_disabled_definition_is_known_but_has_no_cursor(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    save(folder / "tidy.yaml", text_of(more="enabled: false\n"))
    assert ids(catalog.scan(at(0))) == [NAME]
    assert not catalog.in_force[NAME].definition.enabled
    assert ledger.cursors() == {}


def test_enabling_a_definition_again_restarts_its_cursor(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    save(path, text_of(more="enabled: false\n"))
    catalog.scan(at(60))
    save(path, text_of())
    catalog.scan(at(3600))
    assert cursor(catalog, ledger) == at(3600)
    details = [each.detail for each in reversed(ledger.catalog_events(NAME))]
    assert details == [None, "disabled", "enabled"]


def test_enabling_a_definition_restarts_its_cursor_after_a_restart_too(
    catalog: Catalog, ledger: Ledger, folder: Path
) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    save(path, text_of(more="enabled: false\n"))
    catalog.scan(at(60))
    save(path, text_of())
    again = Catalog(ledger, [folder])
    again.scan(at(3600))
    assert cursor(again, ledger) == at(3600)


# -- versions --


def test_every_version_is_kept_by_its_content_hash(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = folder / "tidy.yaml"
    texts = [text_of(cmd=f"echo {number}") for number in range(3)]
    for number, text in enumerate(texts):
        save(path, text)
        catalog.scan(at(number * 60))
    for number, text in enumerate(texts):
        version = ledger.version(content_hash(text.encode()))
        assert version is not None
        assert version.text == text.encode()
        assert (version.definition_id, version.path) == (NAME, str(path))
        assert version.first_seen_at == at(number * 60)
        assert json.loads(version.plain_json)["instruction"]["cmd"] == f"echo {number}"


def test_a_version_that_came_back_is_the_one_that_was(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    save(path, text_of(cmd="make all"))
    catalog.scan(at(60))
    save(path, text_of())
    catalog.scan(at(120))
    version = ledger.version(catalog.in_force[NAME].version_hash)
    assert version is not None
    assert version.first_seen_at == at(0)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A Committer", "-c", "user.email=committer@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_commit_and_blob_are_recorded_of_a_file_that_is_committed(
    catalog: Catalog, ledger: Ledger, folder: Path
) -> None:
    path = save(folder / "sub" / "tidy.yaml", text_of())
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "Add a definition")
    catalog.scan(at(0))
    version = ledger.version(catalog.in_force[NAME].version_hash)
    assert version is not None
    assert version.git_commit == git(folder, "rev-parse", "HEAD")
    assert version.git_blob == git(folder, "rev-parse", "HEAD:sub/tidy.yaml") == blob_of(path.read_bytes())


def test_no_commit_is_recorded_of_a_file_that_differs_from_the_commit(
    catalog: Catalog, ledger: Ledger, folder: Path
) -> None:
    path = save(folder / "tidy.yaml", text_of())
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "Add a definition")
    save(path, text_of(cmd="make all"))
    catalog.scan(at(0))
    version = ledger.version(catalog.in_force[NAME].version_hash)
    assert version is not None
    assert (version.git_commit, version.git_blob) == (None, None)


def test_no_commit_is_recorded_outside_a_repository(catalog: Catalog, ledger: Ledger, folder: Path) -> None:
    save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    version = ledger.version(catalog.in_force[NAME].version_hash)
    assert version is not None
    assert (version.git_commit, version.git_blob) == (None, None)


def test_a_file_whose_name_is_no_text_harms_only_itself(catalog: Catalog, folder: Path) -> None:
    save(folder / "tidy.yaml", text_of())
    os.close(os.open(os.fsencode(folder) + b"/\xff.yaml", os.O_CREAT | os.O_WRONLY))
    changes = catalog.scan(at(0))
    assert NAME in catalog.in_force
    assert any("not UTF-8; rename it" in str(problem) for found in changes.problems.values() for problem in found)


def test_an_absence_starts_anew_after_the_file_was_back_and_broken(catalog: Catalog, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    path.unlink()
    catalog.scan(at(1))
    save(path, "id: [")
    catalog.scan(at(2))
    path.unlink()
    changes = catalog.scan(at(100))
    assert NAME in catalog.in_force
    assert changes.recheck_at == at(105)


def test_a_clock_that_goes_back_in_an_absence_removes_nothing(catalog: Catalog, folder: Path) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(1000))
    path.unlink()
    catalog.scan(at(1001))
    catalog.scan(at(900))
    assert NAME in catalog.in_force


def test_a_file_that_is_away_at_a_start_waits_unrun_and_keeps_its_cursor_when_it_is_back(
    catalog: Catalog, ledger: Ledger, folder: Path
) -> None:
    path = save(folder / "tidy.yaml", text_of())
    catalog.scan(at(0))
    cursors = ledger.cursors()
    path.unlink()
    again = Catalog(ledger, [folder])
    changes = again.scan(at(3600))
    assert again.in_force == {}
    assert changes.recheck_at == at(3605)
    save(path, text_of())
    again.scan(at(3602))
    assert NAME in again.in_force
    assert ledger.cursors() == cursors
