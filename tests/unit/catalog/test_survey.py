from __future__ import annotations

from typing import TYPE_CHECKING

from activity_core.catalog.catalog import Catalog
from activity_core.catalog.load import LOADER, content_hash
from activity_core.catalog.survey import definition_files, survey
from activity_core.ledger.store import Ledger
from activity_plumbing.clock import Instant

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, name: str, cmd: str = "make clean") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"id: {name}\n"
        'trigger: {trigger_type: cron, cron_expression: "@daily"}\n'
        f"instruction: {{kind: shell, cmd: {cmd}}}\n"
    )
    return path


def test_definition_files_are_found_in_order_below_a_folder(tmp_path: Path) -> None:
    wanted = [
        write(tmp_path / "a.yaml", "a"),
        write(tmp_path / "b" / "c.yml", "b"),
        write(tmp_path / "d.yaml", "d"),
    ]
    write(tmp_path / ".hidden.yaml", "e")
    write(tmp_path / ".git" / "f.yaml", "f")
    write(tmp_path / "g.txt", "g")
    assert list(definition_files(tmp_path)) == wanted


def test_a_file_is_surveyed_whatever_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "draft.txt", "a")
    assert list(definition_files(path)) == [path]


def test_links_to_folders_are_not_entered(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.yaml", "a")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere")
    assert list(definition_files(tmp_path / "here")) == []


def test_each_file_has_its_definition_or_its_problems(tmp_path: Path) -> None:
    good = write(tmp_path / "a.yaml", "a.good")
    bad = tmp_path / "b.yaml"
    bad.write_text("id: b.bad\nwrong: [\n")
    first, second = survey([tmp_path])
    assert first.path == str(good)
    assert first.definition is not None
    assert first.definition.id == "a.good"
    assert first.version_hash == content_hash(good.read_bytes())
    assert first.problems == ()
    assert second.path == str(bad)
    assert second.definition is None
    assert [(each.path, each.line) for each in second.problems] == [(str(bad), 3)]


def test_a_symbolic_link_is_a_problem_and_its_target_not_read(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.yaml", "a.secret")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.yaml").symlink_to(tmp_path / "elsewhere" / "a.yaml")
    (found,) = survey([tmp_path / "here"])
    assert found.definition is None
    assert "symbolic link" in found.problems[0].message
    assert "secret" not in str(found.problems[0])


def test_a_path_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    (found,) = survey([tmp_path / "nowhere"])
    assert found.definition is None
    assert str(found.problems[0]) == f"{tmp_path / 'nowhere'}: does not exist"


def test_an_id_in_two_files_is_a_problem_of_both(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.yaml", "x.twice"), write(tmp_path / "b.yaml", "x.twice", "make all")]
    write(tmp_path / "c.yaml", "x.once")
    first, second, third = survey([tmp_path])
    assert [each.problems[0].path for each in (first, second)] == [str(path) for path in paths]
    assert f"the id 'x.twice' also stands in {paths[1]}" in first.problems[0].message
    assert f"the id 'x.twice' also stands in {paths[0]}" in second.problems[0].message
    assert third.problems == ()


def test_one_bad_file_among_1000_is_named_with_its_line_and_the_others_load(tmp_path: Path) -> None:
    for number in range(1000):
        write(tmp_path / f"{number:04}.yaml", f"fleet.n{number}", f"echo {number}")
    bad = tmp_path / "0500.yaml"
    bad.write_text("id: fleet.bad\ntriger: {}\ninstruction: {kind: shell, cmd: make}\n")
    found = survey([tmp_path])
    assert sum(each.definition is not None and not each.problems for each in found) == 999
    (told,) = [each for each in found if each.problems]
    assert told.path == str(bad)
    assert {(each.line, each.column) for each in told.problems} == {(1, 1), (2, 1)}


def test_a_version_that_the_ledger_knows_is_taken_from_it(tmp_path: Path) -> None:
    write(tmp_path / "definitions" / "a.yaml", "a.known")
    ledger = Ledger.open(tmp_path / "state")
    try:
        Catalog(ledger, [tmp_path / "definitions"]).scan(Instant(0))
        known = ledger.versions_in_force(LOADER)
    finally:
        ledger.close()
    assert len(known) == 1
    (found,) = survey([tmp_path / "definitions"], known)
    assert survey([tmp_path / "definitions"]) == [found]
    assert found.definition is not None
