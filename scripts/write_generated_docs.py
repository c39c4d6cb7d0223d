"""Writes the documents that are made from the code; a test fails while they differ from it."""

from __future__ import annotations

import json
from pathlib import Path

from activity_core.definition.schema import json_schema
from activity_core.run import mermaid
from state_hub import workplan

DOCS = Path(__file__).resolve().parent.parent / "docs"


def generated() -> dict[Path, str]:
    """Each generated file's content."""
    states = (
        "# States of a run\n\n"
        "Made from the transition table in `src/activity_core/run.py` by `scripts/write_generated_docs.py`.\n\n"
        "Every change is a conditional update that names the states it may leave; its row count is the answer.\n\n"
        f"```mermaid\n{mermaid()}\n```\n"
    )
    return {
        DOCS / "states.md": states,
        DOCS / "activity-definition.schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
        DOCS / "workplan.schema.json": json.dumps(workplan.json_schema(), indent=2, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    for path, content in generated().items():
        path.write_text(content, encoding="utf-8")
        print(path)
