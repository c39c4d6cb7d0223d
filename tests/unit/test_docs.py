"""The documents say what the program does: each command, key and setting stands in them."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

import activity_core
import activity_plumbing
import state_hub
from activity_core.catalog.survey import survey
from activity_core.cli import cli
from activity_core.definition import schema
from activity_core.definition.parse import parse
from activity_core.settings import _READERS
from state_hub.cli import group as hub
from state_hub.settings import _READERS as HUB_READERS

if TYPE_CHECKING:
    import pydantic

ROOT = Path(__file__).resolve().parents[2]


def test_generated_documents_are_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "write_generated_docs.py"))["generated"]()
    for path, content in made.items():
        assert path.read_text(encoding="utf-8") == content, (
            f"run: .venv/bin/python scripts/write_generated_docs.py ({path})"
        )


def test_every_command_and_its_options_stand_in_the_docs() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for name, command in cli.commands.items():
        assert f"`{name}" in text or f"`{name} " in text or f", `{name} " in text, name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name not in ("as_json", "help"):
                known = any(option in text for option in parameter.opts)
                assert known or parameter.name in ("limit", "log_level", "log_format"), (name, parameter.opts)


def _hub_commands() -> list[tuple[str, click.Command]]:
    """Every command of the hub with its words, groups opened."""
    found: list[tuple[str, click.Command]] = []
    context = click.Context(hub)
    for name in hub.list_commands(context):
        command = hub.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += [(f"{name} {below}", each) for below, each in command.commands.items()]
        else:
            found.append((name, command))
    return found


@pytest.mark.parametrize(("words", "command"), _hub_commands())
def test_every_command_of_the_hub_stands_in_the_docs_and_shows_an_example(words: str, command: click.Command) -> None:
    text = (ROOT / "docs" / "cli.md").read_text().replace("\\|", "|")
    first, _, last = words.partition(" ")
    assert re.search(rf"`{first}\b[^`]*\b{last}", text), words
    assert command.help and "Example" in (command.epilog or ""), words


def test_every_command_has_an_example_in_its_help() -> None:
    for name, command in cli.commands.items():
        assert command.help, name
        if name not in ("list",):
            assert "Example" in (command.epilog or ""), name


def test_every_key_of_a_definition_stands_in_the_docs() -> None:
    text = (ROOT / "docs" / "definitions.md").read_text()
    names = (
        "ActivityDefinition Cron Calendar Interval Event DebounceModel HttpGet ForEachModel Shell ConcurrencyModel"
        " RetryModel LimitsModel"
    )
    models: list[type[pydantic.BaseModel]] = [getattr(schema, name) for name in names.split()]
    for model in models:
        for name, field in model.model_fields.items():
            key = field.alias or name
            assert re.search(rf"`[^`]*\b{key}\b[^`]*`|^\s*{key}:|\b{key}: ", text, re.MULTILINE), key


def test_every_setting_stands_in_the_docs() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    for name in _READERS:
        assert f"`{name}`" in text or f"`[{name}]`" in text, name


def test_every_setting_of_the_hub_stands_in_the_docs() -> None:
    text = (ROOT / "docs" / "settings.md").read_text().partition("## state-hub")[2]
    for name in HUB_READERS:
        assert f"`{name}`" in text, name


def test_shipped_definitions_are_valid_and_carry_the_modeline() -> None:
    found = survey([ROOT / "activity-definitions"])
    assert len(found) >= 3
    for each in found:
        assert each.problems == ()
        first = Path(each.path).read_text().splitlines()[0]
        assert first == "# yaml-language-server: $schema=../docs/activity-definition.schema.json"


@pytest.mark.parametrize("document", ["README.md", "docs/definitions.md"])
def test_whole_definitions_shown_in_documents_are_valid(document: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    whole = [block for block in blocks if re.search(r"^id: ", block, re.MULTILINE)]
    assert whole
    for block in whole:
        parse(block.encode(), document)


def _modules() -> list[str]:
    return [
        module.name
        for package in (activity_core, activity_plumbing, state_hub)
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
        if "migrations" not in module.name and not module.name.endswith("__main__")
    ]


@pytest.mark.parametrize("name", _modules())
def test_examples_in_docstrings_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
