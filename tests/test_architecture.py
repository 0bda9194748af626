"""The map of the code: which way imports point, what each folder does without, and how long a file may be."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "kernels": set[str](),
    "agents": {"kernels"},
    "learner": {"agents", "kernels"},
    "envs": set[str](),
    "launch": {"agents", "envs", "kernels", "learner"},
}
ROOMS = (
    *("runtime", "settings", "runs", "cluster", "rollouts", "evaluation", "plots", "watching", "train", "inspection"),
    *("report", "sweeps", "experiments", "commands", "cli", "__main__"),
)
"""What stands in launch/: each room imports from those before it alone."""
FOLDERS = [*MAY_IMPORT, "api", "tests", "benchmarks", "examples"]
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")) + sorted(ROOT.glob("*.py"))


def imports(source: str) -> Iterator[str]:
    """The dotted names of all that a file imports, at its top or deeper."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def all_imports(folder: str) -> list[tuple[str, str]]:
    """(file, name) of every import below a folder."""
    return [
        (str(path.relative_to(ROOT)), name)
        for path in FILES
        if path.relative_to(ROOT).parts[0] == folder
        for name in imports(path.read_text())
    ]


def module_of(path: Path) -> str:
    """The dotted name of a file of the package."""
    return ".".join(("r2ac", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES if path.relative_to(ROOT).parts[0] in MAY_IMPORT}


@cache
def imported_modules(module: str) -> frozenset[str]:
    """The modules of the package that a module imports, at its top or deeper."""
    found = set()
    for name in imports(MODULES[module].read_text()):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        found.add(name)
    return frozenset(found - {"", module})


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b, c\ndef f():\n    from d.e import f, g\n    from . import h\n"
    assert sorted(imports(source)) == sorted(["a.b", "c", "d.e.f", "d.e.g", "..h"])


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder: str) -> None:
    found = all_imports(folder)
    assert found
    allowed = MAY_IMPORT[folder] | {folder}
    wrong = [
        (path, name)
        for path, name in found
        if (parts := name.split("."))[0] == "r2ac" and (len(parts) == 1 or parts[1] not in allowed)
    ]
    assert wrong == []


def test_every_file_of_launch_stands_in_a_room() -> None:
    names = {path.relative_to(ROOT / "launch").parts[0] for path in (ROOT / "launch").rglob("*.py")} - {"__init__.py"}
    assert names == {f"{room}.py" if room in ("cli", "__main__") else room for room in ROOMS}


def test_rooms_of_launch_import_one_way() -> None:
    def room(module: str) -> int:
        return ROOMS.index(module.split(".")[2])

    launch = [module for module in MODULES if module.startswith("r2ac.launch.")]
    pairs = [(a, b) for a in launch for b in imported_modules(a) if b.startswith("r2ac.launch.")]
    assert pairs
    assert [(a, b) for a, b in pairs if room(a) < room(b)] == []


def test_no_modules_import_each_other() -> None:
    """Not by way of others either, nor where an import stands in a function."""
    # A module leaves as soon as all that it imports has left: what remains is a circle, or imports one.
    left = {module: imported_modules(module) for module in MODULES}
    while gone := {module for module, others in left.items() if not others & left.keys()}:
        left = {module: others for module, others in left.items() if module not in gone}
    assert left == {}


def test_names_of_classes_are_unique() -> None:
    classes = [
        node.name
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    assert [name for name, count in Counter(classes).items() if count > 1] == []


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_names_of_modules_are_unique(folder: str) -> None:
    """But for the files of commands, which have the names of the commands."""
    names = [
        path.stem
        for path in (ROOT / folder).rglob("*.py")
        if path.stem != "__init__" and path.parent != ROOT / "launch" / "commands"
    ]
    assert [name for name, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_only_launch_knows_ray(folder: str) -> None:
    knows = any(name.split(".")[0] == "ray" for _, name in all_imports(folder))
    assert knows == (folder == "launch")


def test_no_folder_is_imported_by_its_bare_name() -> None:
    """Such a name would make a second module with second classes, or find a published package of that name."""
    wrong = [
        (folder, path, name)
        for folder in FOLDERS
        for path, name in all_imports(folder)
        if name.split(".")[0] in MAY_IMPORT or name.startswith(".")
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("modules", "blocked"),
    [
        (
            ("r2ac.kernels", "r2ac.agents", "r2ac.learner"),
            (
                "ray",
                "gymnasium",
                "safetensors",
                "tyro",
                "rich",
                "tensorboard",
                "matplotlib",
                "r2ac.envs",
                "r2ac.launch",
            ),
        ),
        (("r2ac.envs",), ("ray", "torch", "tyro", "rich", "tensorboard", "r2ac.agents", "r2ac.learner", "r2ac.launch")),
    ],
    ids=["a GPU machine with torch alone", "environments without Ray and torch"],
)
def test_a_folder_does_without(modules: tuple[str, ...], blocked: tuple[str, ...]) -> None:
    # All names of a package, as some are imported when they are first asked for.
    names = "; ".join(f"from {module} import *" for module in modules)
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); {names}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    files = [path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("__init__.py")]
    names = ["r2ac." + ".".join(path.parent.relative_to(ROOT).parts) for path in files]
    assert sorted(listed) == ["r2ac", *sorted([*names, "r2ac.experiments"])]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("folder", ["learner", "launch", "envs"])
def test_no_core_is_known_by_its_class_or_name(folder: str) -> None:
    """Outside of agents/ a core says itself what it is: state size, whether RTRL trains it, what to call."""
    known = re.compile(r"isinstance\([^)]*\bcore\b|\b(ELSTM|FeedForward|Recurrent)\b|\bcore\W{0,3} (==|!=) ")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in FILES
        if path.relative_to(ROOT).parts[0] == folder
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if known.search(line)
    ]
    assert found == []
