"""Which definitions are in force: files read, claims to ids settled, every change recorded.

A file that turns bad leaves its last good version in force. An id belongs to the file that held it first; a
second file that claims it is refused until the holder is gone. A file that is away for less than five
seconds (a save by rename, a checkout) was never away.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING

from activity_core.catalog.load import LOADER, content_hash, load, read_file, restore, trigger_hash_of
from activity_core.catalog.origin import git_origins, is_in_git
from activity_core.definition.model import Definition, DefinitionId, VersionHash
from activity_core.errors import DefinitionError
from activity_core.ledger.records import CatalogEvent, DefinitionRecord, VersionRecord
from activity_plumbing.clock import SECOND_US, Instant
from activity_plumbing.yaml_document import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from activity_core.ledger.store import Ledger

ABSENCE_US = 5 * SECOND_US
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """A definition in force: its version, the file that holds its id, and since when its trigger counts."""

    definition: Definition
    version_hash: VersionHash
    path: str
    trigger_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a scan changed. `recheck_at`: when an absence may have become a removal."""

    in_force: Sequence[InForce] = ()
    """New and changed ones, the disabled too."""
    removed: Sequence[DefinitionId] = ()
    problems: Mapping[str, Sequence[Problem]] = field(default_factory=dict)
    """By path: problems that appeared or changed; none for a file that is in order again."""
    recheck_at: Instant | None = None


@dataclass(slots=True)
class _File:
    """What is known of one file since it was last read."""

    signature: tuple[int, int, int]
    version_hash: VersionHash | None = None
    claims: DefinitionId | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(slots=True)
class _Fresh:
    """A version read in this scan."""

    definition: Definition
    plain_json: str
    text: bytes | None


@dataclass(slots=True)
class _Outcome:
    """What one scan will record."""

    versions: list[VersionRecord] = field(default_factory=list)
    holders: list[DefinitionRecord] = field(default_factory=list)
    events: list[CatalogEvent] = field(default_factory=list)
    cursors: list[tuple[DefinitionId, str, Instant]] = field(default_factory=list)


class Catalog:
    """The definitions in force over a set of folders. Blocking; one thread at a time."""

    def __init__(self, ledger: Ledger, folders: Sequence[Path]) -> None:
        self._ledger = ledger
        self._folders = tuple(folders)
        self._files: dict[str, _File] = {}
        self._holders: dict[str, DefinitionRecord] = {}
        self._absent_since: dict[str, Instant] = {}
        self._known: dict[str, tuple[str, str]] = {}
        self._told: dict[str, tuple[Problem, ...]] = {}
        self._is_first = True
        self._unreadable: list[str] = []
        self._had_folder_problems = False
        self.in_force: dict[str, InForce] = {}
        self.problems: dict[str, tuple[Problem, ...]] = {}

    def scan(self, now: Instant) -> Changes:
        """Reads what has changed on disk, settles claims, records and returns the difference."""
        if self._is_first:
            self._holders = {intern(record.id): _interned(record) for record in self._ledger.definitions()}
            self._known = self._ledger.versions_in_force(LOADER)
        fresh, is_changed = self._read_changed_files()
        folder_problems = self._folder_problems()
        if not (is_changed or self._is_first or self._absent_since or folder_problems or self._had_folder_problems):
            return Changes()
        self._had_folder_problems = bool(folder_problems)
        before = dict(self.in_force)
        try:
            changed_problems, recheck_at = self._bring_up_to_date(fresh, folder_problems, now)
        except Exception:  # nothing was recorded, so nothing has happened: the next scan starts from the ledger
            self._files, self._absent_since, self._told = {}, {}, {}
            self.in_force = before
            self._is_first = True
            raise
        self._known = {}
        self._is_first = False
        changed = [entry for name, entry in self.in_force.items() if before.get(name) is not entry]
        removed = [DefinitionId(name) for name in before if name not in self.in_force]
        return Changes(
            in_force=changed,
            removed=removed,
            problems={path: self.problems.get(path, ()) for path in changed_problems},
            recheck_at=recheck_at,
        )

    def _bring_up_to_date(
        self, fresh: dict[str, _Fresh], folder_problems: dict[str, list[Problem]], now: Instant
    ) -> tuple[list[str], Instant | None]:
        """Settles claims and records; the paths whose problems changed, and when to look again."""
        outcome = _Outcome()
        problems: dict[str, list[Problem]] = {
            file.problems[0].path: list(file.problems) for file in self._files.values() if file.problems
        }
        problems.update(folder_problems)
        recheck_at = self._settle(fresh, now, outcome, problems)
        self._record_versions(fresh, now, outcome)
        changed_problems = self._note_problems(problems, now, outcome)
        if outcome.versions or outcome.holders or outcome.events or outcome.cursors:
            self._ledger.record_catalog(
                new_versions=outcome.versions,
                holders=outcome.holders,
                events=outcome.events,
                new_cursors=outcome.cursors,
            )
        return changed_problems, recheck_at

    def note_origins(self) -> int:
        """Finds the commits of versions that were loaded before they were committed; how many it found."""
        found = {Path(version.path): version for version in self._ledger.versions_without_commit()}
        in_git = {path: version.text for path, version in found.items() if is_in_git(path)}
        origins = git_origins(in_git) if in_git else {}
        if origins:
            self._ledger.note_origins([(found[path].hash, *origin) for path, origin in origins.items()])
        return len(origins)

    # -- reading --

    def _read_changed_files(self) -> tuple[dict[str, _Fresh], bool]:
        """Reads new and changed files; by version hash what was read and is valid, and whether anything changed."""
        is_changed = False
        fresh: dict[str, _Fresh] = {}
        seen: set[str] = set()
        for path, signature in self._walk():
            path = intern(path)
            seen.add(path)
            known = self._files.get(path)
            if known is not None and known.signature == signature:
                continue
            self._files[path] = self._read(path, signature, fresh)
            is_changed = True
        for path in self._files.keys() - seen:
            if not any(path.startswith(folder + "/") for folder in self._unreadable):
                is_changed = True
                del self._files[path]
        return fresh, is_changed

    def _walk(self) -> Iterator[tuple[str, tuple[int, int, int]]]:
        folders = [str(folder) for folder in self._folders]
        self._unreadable = []
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.name.startswith("."):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                        elif entry.name.endswith(_SUFFIXES):
                            signature = _signature(entry)
                            if signature is not None:
                                yield entry.path, signature
            except FileNotFoundError:
                continue  # gone between two looks
            except OSError:
                self._unreadable.append(folder)  # what it held before is not gone, only out of sight

    def _read(self, path: str, signature: tuple[int, int, int], fresh: dict[str, _Fresh]) -> _File:
        try:
            path.encode()
        except UnicodeEncodeError:
            shown = path.encode("utf-8", "backslashreplace").decode()
            problem = Problem(path=shown, line=0, column=0, message="the file's name is not UTF-8; rename it")
            return _File(signature, problems=(problem,))
        try:
            text = read_file(Path(path))
            version_hash = VersionHash(intern(content_hash(text)))
            if version_hash in fresh:
                claims = fresh[version_hash].definition.id
            else:
                found = self._checked(text, version_hash, path)
                fresh[version_hash] = found
                claims = found.definition.id
        except DefinitionError as failure:
            return _File(signature, problems=failure.problems)
        return _File(signature, version_hash=version_hash, claims=claims)

    def _checked(self, text: bytes, version_hash: VersionHash, path: str) -> _Fresh:
        """The version of a text, from the ledger where this loader has checked it before."""
        known = self._known.pop(version_hash, None)
        if known is not None:
            definition = restore(known[0])
            if definition is not None:
                return _Fresh(definition, "", None)
        loaded = load(text, path)
        return _Fresh(loaded.definition, loaded.plain_json, text)

    def _folder_problems(self) -> dict[str, list[Problem]]:
        problems = {}
        for folder in self._folders:
            if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
                said = "cannot be read" if folder.exists() else "does not exist"
                message = f"the definitions folder {said}; create it, or change `definitions` in the settings"
                problems[str(folder)] = [Problem(path=str(folder), line=0, column=0, message=message)]
        for name in self._unreadable:
            message = "the folder cannot be read; what was in force from it stays"
            problems.setdefault(name, [Problem(path=name, line=0, column=0, message=message)])
        return problems

    # -- claims --

    def _settle(
        self, fresh: dict[str, _Fresh], now: Instant, outcome: _Outcome, problems: dict[str, list[Problem]]
    ) -> Instant | None:
        """Decides which file holds each id; fills `outcome`; returns when an absence is to be looked at again."""
        claims: dict[str, list[str]] = {}
        for path, file in sorted(self._files.items()):
            if file.claims is not None:
                claims.setdefault(file.claims, []).append(path)
        recheck: list[Instant] = []
        for name in self._holders.keys() | claims.keys():
            claimants = claims.get(name, [])
            holder = self._holders.get(name)
            if holder is not None and holder.removed_at is None:
                if holder.path in claimants:
                    self._absent_since.pop(name, None)
                    winner: str | None = holder.path
                elif holder.path in self._files and self._files[holder.path].claims is None:
                    self._absent_since.pop(name, None)
                    self._keep_last_good(holder, problems)
                    winner = holder.path
                elif self._is_first and len(claimants) == 1:
                    winner = claimants[0]  # moved while nobody looked
                elif (due := self._absence_ends(holder, now)) is not None:
                    recheck.append(due)
                    if not self._is_first:  # what was away before this start may be gone for good: it waits, unrun
                        self._keep_last_good(holder, problems)
                    winner = holder.path
                else:
                    self._absent_since.pop(name, None)
                    winner = claimants[0] if len(claimants) == 1 else None
                    if winner is None:
                        self._remove(holder, now, outcome)
            else:
                winner = claimants[0] if len(claimants) == 1 else None
            for path in claimants:
                if path != winner:
                    problems.setdefault(path, []).append(self._refusal(name, path, winner, claimants))
            if winner is not None and winner in claimants:
                self._put_in_force(DefinitionId(name), winner, fresh, now, outcome)
        return min(recheck, default=None)

    def _absence_ends(self, holder: DefinitionRecord, now: Instant) -> Instant | None:
        """When the holder's file will have been away long enough; None when it has been, or claims another id."""
        if holder.path in self._files or not any(Path(holder.path).is_relative_to(each) for each in self._folders):
            return None
        since = self._absent_since.setdefault(holder.id, now)
        if since > now:  # the clock went back
            since = self._absent_since[holder.id] = now
        due = Instant(since + ABSENCE_US)
        return due if now < due else None

    def _refusal(self, name: str, path: str, winner: str | None, claimants: list[str]) -> Problem:
        if winner is not None:
            message = f"the id {name!r} belongs to {winner}, which stays in force; give this file another id"
        else:
            others = ", ".join(other for other in claimants if other != path)
            message = f"the id {name!r} is also claimed by {others}; neither is in force until one of them changes"
        return Problem(path=path, line=1, column=1, message=message)

    def _keep_last_good(self, holder: DefinitionRecord, problems: dict[str, list[Problem]]) -> None:
        """The file is bad or briefly away: what was in force stays; after a restart it comes from the ledger."""
        if holder.id in self.in_force:
            return
        version = self._ledger.version(holder.version_hash)
        if version is None:
            return
        try:
            definition = (
                restore(version.plain_json) if version.loader == LOADER else load(version.text, holder.path).definition
            )
        except DefinitionError as failure:
            problems.setdefault(holder.path, []).extend(failure.problems)
            return
        if definition is not None:
            self.in_force[holder.id] = InForce(
                definition=definition,
                version_hash=holder.version_hash,
                path=holder.path,
                trigger_hash=holder.trigger_hash,
            )

    def _put_in_force(
        self, name: DefinitionId, path: str, fresh: dict[str, _Fresh], now: Instant, outcome: _Outcome
    ) -> None:
        file = self._files[path]
        assert file.version_hash is not None
        current = self.in_force.get(name)
        if current is not None and current.version_hash == file.version_hash and current.path == path:
            return
        found = fresh.get(file.version_hash)
        if found is not None:
            definition = found.definition
        elif current is not None and current.version_hash == file.version_hash:
            definition = current.definition
        else:  # read in an earlier scan and refused then, because another file held the id
            try:
                text = read_file(Path(path))
                loaded = load(text, path)
            except DefinitionError:
                return  # it changed since; the next scan says how
            if content_hash(text) != file.version_hash or loaded.definition.id != name:
                return
            definition = loaded.definition
            fresh[file.version_hash] = _Fresh(definition, loaded.plain_json, text)
        trigger_hash = intern(trigger_hash_of(definition.schedule)) if definition.enabled else ""
        self.in_force[name] = InForce(
            definition=definition, version_hash=file.version_hash, path=path, trigger_hash=trigger_hash
        )
        self._record_holder(self.in_force[name], now, outcome)

    def _record_holder(self, entry: InForce, now: Instant, outcome: _Outcome) -> None:
        name = entry.definition.id
        holder = self._holders.get(name)
        was_here = holder is not None and holder.removed_at is None
        is_same_trigger = was_here and holder is not None and holder.trigger_hash == entry.trigger_hash
        if not is_same_trigger and entry.trigger_hash and entry.definition.is_scheduled:
            outcome.cursors.append((name, entry.trigger_hash, now))
        if (
            was_here
            and holder is not None
            and (holder.version_hash, holder.path, holder.problem_json)
            == (
                entry.version_hash,
                entry.path,
                None,
            )
        ):
            return
        if not was_here:
            event = "loaded"
        elif holder is not None and holder.version_hash != entry.version_hash:
            event = "changed"
        elif holder is not None and holder.path != entry.path:
            event = "moved"
        else:
            event = "mended"
        record = DefinitionRecord(
            id=name,
            path=entry.path,
            version_hash=entry.version_hash,
            trigger_hash=entry.trigger_hash,
            in_force_since=now if event in ("loaded", "changed") or holder is None else holder.in_force_since,
            removed_at=None,
            problem_json=None,
        )
        self._holders[name] = record
        outcome.holders.append(record)
        detail = None
        if holder is not None and was_here and bool(holder.trigger_hash) != bool(entry.trigger_hash):
            detail = "enabled" if entry.trigger_hash else "disabled"
        elif was_here and not is_same_trigger:
            detail = "new trigger: slots count from now on"
        outcome.events.append(
            CatalogEvent(
                at=now,
                definition_id=name,
                path=entry.path,
                event=event,
                version_hash=entry.version_hash,
                detail=detail,
            )
        )

    def _remove(self, holder: DefinitionRecord, now: Instant, outcome: _Outcome) -> None:
        self.in_force.pop(holder.id, None)
        record = replace(holder, removed_at=now, trigger_hash="", problem_json=None)
        self._holders[holder.id] = record
        outcome.holders.append(record)
        outcome.events.append(
            CatalogEvent(
                at=now,
                definition_id=holder.id,
                path=holder.path,
                event="removed",
                version_hash=holder.version_hash,
                detail=None,
            )
        )

    # -- recording --

    def _record_versions(self, fresh: dict[str, _Fresh], now: Instant, outcome: _Outcome) -> None:
        new = {version_hash: found for version_hash, found in fresh.items() if found.text is not None}
        paths = {file.version_hash: path for path, file in self._files.items() if file.version_hash in new}
        texts = {
            Path(path): text
            for version_hash, path in paths.items()
            if version_hash is not None and (text := new[version_hash].text) is not None
        }
        origins = git_origins(texts) if texts else {}
        for version_hash, found in new.items():
            path = paths.get(VersionHash(version_hash))
            if path is None or found.text is None:
                continue
            commit, blob = origins.get(Path(path), (None, None))
            outcome.versions.append(
                VersionRecord(
                    hash=VersionHash(version_hash),
                    definition_id=found.definition.id,
                    path=path,
                    text=found.text,
                    plain_json=found.plain_json,
                    loader=LOADER,
                    git_commit=commit,
                    git_blob=blob,
                    first_seen_at=now,
                )
            )

    def _note_problems(self, problems: dict[str, list[Problem]], now: Instant, outcome: _Outcome) -> list[str]:
        """Keeps the problems, records them with their holders and in the log where they are new."""
        told = {path: tuple(found) for path, found in problems.items()}
        changed = [path for path in told.keys() | self._told.keys() if told.get(path) != self._told.get(path)]
        held = {record.path: record for record in self._holders.values() if record.removed_at is None}
        for path in changed:
            found = told.get(path, ())
            holder = held.get(path)
            text = "\n".join(str(problem) for problem in found)
            problem_json = json.dumps([str(problem) for problem in found]) if found else None
            if found and (holder is None or holder.problem_json != problem_json):
                outcome.events.append(
                    CatalogEvent(
                        at=now,
                        definition_id=None if holder is None else holder.id,
                        path=path,
                        event="refused",
                        version_hash=None,
                        detail=text[:4000],
                    )
                )
            if holder is not None and holder.problem_json != problem_json:
                record = replace(holder, problem_json=problem_json)
                self._holders[holder.id] = record
                outcome.holders = [each for each in outcome.holders if each.id != holder.id]
                outcome.holders.append(record)
        self._told = self.problems = told
        return changed


def _interned(record: DefinitionRecord) -> DefinitionRecord:
    """The same record with texts that the catalog keeps anyway, so that each is in memory once."""
    return replace(
        record,
        path=intern(record.path),
        version_hash=VersionHash(intern(record.version_hash)),
        trigger_hash=intern(record.trigger_hash),
    )


def _signature(entry: os.DirEntry[str]) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None for one that went away between two looks."""
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
