"""A folder at a URL, such as s3://bucket/runs/a, gs://… or file:///mnt/…, through fsspec."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from r2ac.envs import MissingPackage
from r2ac.launch.runtime.errors import RunError, os_errors_as, os_reason

PARTIAL = ".r2ac-partial"
"""How the names of files end that are still being written."""

# Of these a file is there as a whole or not at all, and a rename would be a second copy.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory", "hf"}
# What differs between two states of a file, by the names of several stores.
_MARKS = ("size", "blob_id", "ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")


class StorageError(RunError):
    """A URL that cannot be used as it was asked for; the message is one sentence."""


class StorageUnavailable(RuntimeError):
    """A store cannot be read or written now: network, space, permission. Another try may succeed."""


def cache_folder(kind: str, url: str) -> Path:
    """The folder of this machine for copies of ``url``, made for this user alone below ``$XDG_CACHE_HOME`` or
    ``~/.cache``. Raises StorageError where it cannot be made."""
    try:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    except RuntimeError:
        home = str(Path(tempfile.gettempdir()) / f"cache-{os.getuid()}")
    folder = Path(home) / "r2ac" / kind / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    with os_errors_as(StorageError, f"{folder} cannot hold a copy of {url} (XDG_CACHE_HOME chooses another)"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


class Store:
    """The folder at a URL, with the ``name`` that ends it; names of files are relative to it. Raises StorageError for a
    URL that no package reads or that names no folder, and MissingPackage; all methods raise StorageUnavailable."""

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise MissingPackage(f"{url} needs the package fsspec: pip install fsspec") from error
        try:
            self._fs, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
        except ImportError as error:
            raise MissingPackage(f"{url} cannot be reached, for a package is missing: {_one_line(error)}") from error
        except Exception as error:
            raise StorageError(f"{url} cannot be reached: {_one_line(error)}") from error
        self.url, self._root = url.rstrip("/"), root.rstrip("/")
        self.name = PurePosixPath(self._root).name
        if not self.name:
            raise StorageError(f"{url} is the root of a store, but a run needs a folder of its own")

    def files(self) -> dict[str, str]:
        """All files below the folder, by name, with a mark that changes with their contents; none where it is not."""
        with self._explained("read"):
            found = self._fs.find(self._root, detail=True)
        names = {path[len(self._root) + 1 :]: info for path, info in found.items()}
        return {name: _mark(info) for name, info in names.items() if _is_inside(name)}

    def read(self, name: str) -> bytes | None:
        """A small file; None where there is none."""
        with self._explained("read"), suppress(FileNotFoundError, NotADirectoryError):
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))
        return None

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The object in a small file; None where there is no file. Raises StorageError where it is damaged."""
        if (data := self.read(name)) is None:
            return None
        with suppress(ValueError):
            if isinstance(value := json.loads(data), dict):
                return value
        raise StorageError(f"{self.url}/{name} is damaged: it holds no JSON object")

    def write(self, name: str, content: bytes | Path) -> None:
        """Replaces a file by bytes or by a file of this machine; a reader meets the old one or the new one, whole."""
        path = target = f"{self._root}/{name}"
        with self._explained("written"):
            if self.url.partition("://")[0] not in _OBJECT_STORES:
                folder, _, last = path.rpartition("/")
                self._fs.makedirs(folder, exist_ok=True)
                target = f"{folder}/.{last}.{uuid.uuid4().hex[:8]}{PARTIAL}"
            try:
                if isinstance(content, Path):
                    self._fs.put_file(str(content), target)
                else:
                    self._fs.pipe_file(target, content)
                if target != path:
                    self._fs.mv(target, path)
            except BaseException:
                if target != path and self._fs.exists(target):
                    self._fs.rm_file(target)
                raise

    def get(self, name: str, local: Path) -> None:
        """Replaces a file of this machine by one of the store, whole."""
        partial = local.with_name(f".{local.name}{PARTIAL}")
        with self._explained("read"):
            try:
                local.parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(f"{self._root}/{name}", str(partial))
                os.replace(partial, local)
            finally:
                partial.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with self._explained("written"), suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{name}")

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each kind of store raises its own
            raise StorageUnavailable(f"{self.url} cannot be {action}: {_one_line(error)}") from error


def _mark(info: dict[str, Any]) -> str:
    return " ".join(str(info[key]) for key in _MARKS if info.get(key) is not None)


def _is_inside(name: str) -> bool:
    """Whether a name that a store gives stays in the folder, on this machine too."""
    return not any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in name.split("/"))


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return os_reason(error)
    if isinstance(error, FileNotFoundError):
        return f"there is no {error}"
    return " ".join(str(error).split()) or type(error).__name__
