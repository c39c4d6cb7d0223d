"""Reading definition folders without taking part: for `validate`, `list`, `next` and `doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from activity_core.catalog.load import content_hash, load, read_file, restore
from activity_core.errors import DefinitionError
from activity_plumbing.yaml_document import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from activity_core.definition.model import Definition, VersionHash

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyed:
    """One file: its definition, or what is wrong with it."""

    path: str
    definition: Definition | None
    version_hash: VersionHash | None
    problems: tuple[Problem, ...] = ()


def definition_files(path: Path) -> Iterator[Path]:
    """The definition files at or below a path, sorted; hidden ones and links to folders are left out."""
    if not path.is_dir():
        yield path
        return
    for entry in sorted(path.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from definition_files(entry)
        elif entry.name.endswith(SUFFIXES):
            yield entry


def survey(paths: Iterable[Path], known: Mapping[str, tuple[str, str]] | None = None) -> list[Surveyed]:
    """Every definition file below the paths; ids that stand in two files are a problem of both.

    `known`: versions that were checked before, by hash, as `Ledger.versions_in_force` gives them.
    """
    found = []
    for path in paths:
        if not path.exists():
            problem = Problem(path=str(path), line=0, column=0, message="does not exist")
            found.append(Surveyed(path=str(path), definition=None, version_hash=None, problems=(problem,)))
            continue
        try:
            found += [_one(file, known or {}) for file in definition_files(path)]
        except OSError as failure:
            problem = Problem(path=str(failure.filename or path), line=0, column=0, message="the folder cannot be read")
            found.append(Surveyed(path=problem.path, definition=None, version_hash=None, problems=(problem,)))
    return _with_claims(found)


def _one(path: Path, known: Mapping[str, tuple[str, str]]) -> Surveyed:
    try:
        text = read_file(path)
        version_hash = content_hash(text)
        definition = restore(known[version_hash][0]) if version_hash in known else None
        if definition is None:
            definition = load(text, str(path)).definition
    except DefinitionError as failure:
        return Surveyed(path=str(path), definition=None, version_hash=None, problems=failure.problems)
    return Surveyed(path=str(path), definition=definition, version_hash=version_hash)


def _with_claims(found: list[Surveyed]) -> list[Surveyed]:
    holders: dict[str, list[str]] = {}
    for each in found:
        if each.definition is not None:
            holders.setdefault(each.definition.id, []).append(each.path)
    result = []
    for each in found:
        others = [] if each.definition is None else [path for path in holders[each.definition.id] if path != each.path]
        if others and each.definition is not None:
            message = f"the id {each.definition.id!r} also stands in {', '.join(others)}"
            problem = Problem(path=each.path, line=1, column=1, message=message)
            each = Surveyed(
                path=each.path,
                definition=each.definition,
                version_hash=each.version_hash,
                problems=(problem,),
            )
        result.append(each)
    return result
