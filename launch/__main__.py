"""``python -m r2ac.launch COMMAND …``: the command line where there is no console script, as on the nodes of a cluster
that are sent this package without its dependencies."""

import sys
from importlib import import_module


def run() -> int:
    """The exit code of the command; 1 with one sentence where the interpreter lacks what r2ac needs."""
    try:
        # All that a training needs, so that a module that is missing is named now.
        import_module("r2ac.launch.train.start")
        from r2ac.launch.cli import main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "r2ac":
            raise
        print(
            f"r2ac: {sys.executable} lacks the module {error.name}: install the dependencies of r2ac there, or name "
            "the interpreter that has them (r2ac submit --python)",
            file=sys.stderr,
        )
        return 1
    return main()


if __name__ == "__main__":
    sys.exit(run())
