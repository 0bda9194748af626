"""A training in this process until its first update: the last line on standard output is the seconds of each part, as
JSON. ``benchmarks/startup.py`` runs it by one Python or another; it imports nothing that the training would not.

    python benchmarks/startup_child.py train memory/tmaze --total-steps 1
"""

from __future__ import annotations

import json
import sys
import time
from pkgutil import resolve_name
from typing import Any

ENDS = (
    ("settings, environment", "r2ac.launch.train.learn", "make_learner", True),
    ("memory budget, learner", "r2ac.launch.train.learn", "make_learner", False),
    ("start of Ray", "r2ac.launch.train.sources", "connect", False),
    ("actors, metrics files, first rollouts", "r2ac.learner.learner:Learner", "update", True),
    ("first update", "r2ac.learner.learner:Learner", "update", False),
)
"""The parts after the imports, in their order: each ends where a function first begins (True) or returns."""
WHOLE = "until the first update"


def main() -> None:
    import psutil  # type: ignore[import-untyped]

    own, parts = psutil.Process(), dict[str, list[float]]()

    def end(part: str) -> None:
        others = sum(sum(each.cpu_times()[:2]) for each in own.children(recursive=True))
        total = time.time() - own.create_time(), time.process_time() + others
        if part not in parts:
            parts[part] = [now - sum(before) for now, *before in zip(total, *parts.values(), strict=True)]

    def watch(part: str, owner: Any, name: str, begins: bool) -> None:
        inner = getattr(owner, name)

        def outer(*given: Any, **named: Any) -> Any:
            if begins:
                end(part)
            result = inner(*given, **named)
            end(part)
            return result

        setattr(owner, name, outer)

    command = resolve_name("r2ac.launch.commands.train")
    end("imports of the command line")
    # As the command does it.
    getattr(command, "_start", lambda: resolve_name("r2ac.launch.train.start"))()
    end("imports of the training, with torch")
    for part, owner, name, begins in ENDS:
        watch(part, resolve_name(owner), name, begins)
    code = resolve_name("r2ac.launch.cli:main")(sys.argv[1:])
    if code or ENDS[-1][0] not in parts:
        sys.exit(code or "no update was made")
    print(json.dumps(parts | {WHOLE: [sum(each) for each in zip(*parts.values(), strict=True)]}))


if __name__ == "__main__":
    main()
