"""What this machine says of itself: load, memory and disk, so that a rule can wait for a quiet hour."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from activity_core.errors import ContextError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from activity_core.context.sources import SourceTools


class HostStatus:
    """``{cpus, load_1m, load_5m, load_15m, memory_total, memory_available, disk_total, disk_free, on_battery}``.

    Memory and disk in bytes (proc_meminfo(5), statvfs(3)); `path` names the file system, by default the
    state folder's. `on_battery` is true when a mains supply is known and none is online.
    """

    name = "host.status"
    parameters: Mapping[str, type] = {"path": str}

    def __init__(self, tools: SourceTools) -> None:
        self._default_path = str(tools.settings.state_dir)

    async def ask(self, arguments: Mapping[str, object]) -> object:
        """The figures of this moment."""
        path = str(arguments.get("path", self._default_path))
        try:
            disk = shutil.disk_usage(path)
        except OSError as failure:
            raise ContextError(f"{path}: {failure.strerror}") from failure
        load = os.getloadavg()
        memory = _memory()
        return {
            "cpus": os.cpu_count() or 1,
            "load_1m": load[0],
            "load_5m": load[1],
            "load_15m": load[2],
            "memory_total": memory.get("MemTotal", 0),
            "memory_available": memory.get("MemAvailable", 0),
            "disk_total": disk.total,
            "disk_free": disk.free,
            "on_battery": _on_battery(),
        }


def _memory() -> dict[str, int]:
    with open("/proc/meminfo", encoding="ascii") as file:
        head = [next(file).split() for _ in range(3)]
    return {fields[0].rstrip(":"): int(fields[1]) * 1024 for fields in head}


def _on_battery() -> bool:
    supplies = Path("/sys/class/power_supply")
    mains = []
    for online in supplies.glob("*/online"):
        try:
            mains.append(online.read_text(encoding="ascii").strip() == "1")
        except OSError:
            continue
    return bool(mains) and not any(mains)
