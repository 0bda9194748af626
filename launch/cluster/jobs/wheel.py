"""The running package as a wheel, however it is installed, so that it can be sent to a cluster."""

from __future__ import annotations

import base64
import hashlib
import importlib
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

_FOLDERS = ("agents", "envs", "kernels", "launch", "learner")
_WHEEL = "Wheel-Version: 1.0\nGenerator: r2ac\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# One date for every file: the same sources make the same bytes, and a cluster that has them is not sent them again.
_DATE = (1980, 1, 1, 0, 0, 0)


def build_wheel(folder: Path) -> Path:
    """Write ``r2ac-VERSION-py3-none-any.whl`` into ``folder`` from the modules that this process imports, however they
    are installed. Equal sources give equal bytes. Raises OSError."""
    installed = distribution("r2ac")
    path = folder / f"r2ac-{installed.version}-py3-none-any.whl"
    record = f"r2ac-{installed.version}.dist-info/RECORD"
    lines = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in _files(installed):
            _write(wheel, name, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            lines.append(f"{name},sha256={digest},{len(content)}\n")
        _write(wheel, record, "".join([*lines, f"{record},,\n"]).encode())
    return path


def add_modules(archive: Path, modules: Iterable[Path]) -> None:
    """Add modules to a zip archive, at its top: files, and folders with all that is in them. Raises OSError."""
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
        for module in modules:
            for file in [module] if module.is_file() else _sources(module):
                _write(opened, file.relative_to(module.parent).as_posix(), file.read_bytes())


def _sources(root: Path) -> Iterator[Path]:
    """The files below a folder, but for hidden ones and what Python has compiled."""
    for file in sorted(root.rglob("*")):
        inside = file.relative_to(root).parts
        if file.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in inside):
            yield file


def _files(installed: Distribution) -> Iterator[tuple[str, bytes]]:
    """(name in the wheel, content) of the modules, of the data beside them, and of the wheel's own description."""
    top = importlib.import_module("r2ac").__file__
    assert top is not None
    yield "r2ac/__init__.py", Path(top).read_bytes()
    for folder in _FOLDERS:
        root = Path(importlib.import_module(f"r2ac.{folder}").__path__[0])
        for file in _sources(root):
            yield f"r2ac/{folder}/{file.relative_to(root).as_posix()}", file.read_bytes()
    description = f"r2ac-{installed.version}.dist-info"
    # A checkout's own entry has another name for it.
    metadata = installed.read_text("METADATA") or installed.read_text("PKG-INFO") or ""
    yield f"{description}/METADATA", metadata.encode()
    yield f"{description}/WHEEL", _WHEEL.encode()
    yield f"{description}/entry_points.txt", (installed.read_text("entry_points.txt") or "").encode()


def _write(wheel: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    wheel.writestr(entry, content)
