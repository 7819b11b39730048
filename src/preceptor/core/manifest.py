"""The manifest of an artifact: what it is, what it was made from, and the digest of every file in it."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self

from preceptor.core.canonical import digest
from preceptor.core.errors import ArtifactError

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What is known of a file: its SHA-256 in hexadecimal and its size."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself; notes and the time of creation are not part of its identity."""

    kind: str
    key: str
    parents: dict[str, str]
    facts: dict[str, Any]
    files: dict[str, FileDigest]
    notes: dict[str, Any] = field(default_factory=dict)
    created: float = 0.0

    @cached_property
    def id(self) -> str:
        """The SHA-256 of kind, key, parents, facts and files."""
        identity = {"kind": self.kind, "key": self.key, "parents": self.parents, "facts": self.facts}
        return digest({**identity, "files": self.files})

    def write(self, folder: Path) -> None:
        """Write it into the folder and force it to the disk."""
        table = {"format": FORMAT, "id": self.id, **asdict(self)}
        text = json.dumps({**table, "sha256": digest(table)}, indent=2, sort_keys=True, allow_nan=False)
        with (folder / MANIFEST).open("x", encoding="utf-8") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest in a folder.

        Raises:
            ArtifactError: there is none, or it is not what was written.
        """
        path = folder / MANIFEST
        remedy = f"delete {folder} and run again; what made it will make it anew"
        try:
            if path.is_symlink():
                raise ArtifactError(f"{path}: a link; an artifact holds its own files only", remedy=remedy)
            raw = path.read_bytes()
        except FileNotFoundError as error:
            what = "no manifest, so this is not a finished artifact" if folder.is_dir() else "no such artifact"
            raise ArtifactError(f"{path if folder.is_dir() else folder}: {what}", remedy="check the path") from error
        except OSError as error:
            raise ArtifactError(
                f"{path}: cannot read: {error.strerror}", remedy="check the disk and its rights"
            ) from error
        try:
            table = json.loads(raw)
            if not isinstance(table, dict):
                raise ValueError("not a table")
            if table.get("format") != FORMAT:
                raise ValueError(f"format {table.get('format')!r}, while this version reads format {FORMAT}")
            expected, found = table.pop("sha256"), digest(table)
            if expected != found:
                raise ValueError(f"expected SHA-256 {expected}, found {found}")
            return cls._from(table)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ArtifactError(f"{path}: corrupt: {type(error).__name__}: {error}", remedy=remedy) from error

    @classmethod
    def _from(cls, table: dict[str, Any]) -> Self:
        identity, _ = table.pop("id"), table.pop("format")
        files = {name: FileDigest(**entry) for name, entry in table.pop("files").items()}
        for name in files:
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or str(PurePosixPath(name)) != name:
                raise ValueError(f"{name!r} is not a name inside the artifact")
        manifest = cls(files=files, **table)
        if manifest.id != identity:
            raise ValueError(f"expected id {manifest.id}, found {identity}")
        return manifest


def list_files(folder: Path) -> dict[str, Path]:
    """Every file of an artifact except its manifest, by its name from the folder, sorted.

    Raises:
        ArtifactError: it holds a link or another special file, or cannot be read.
    """
    files: dict[str, Path] = {}
    try:
        _collect(folder, "", files)
    except OSError as error:
        raise ArtifactError(f"{error.filename or folder}: cannot read: {error.strerror}") from error
    files.pop(MANIFEST, None)
    return dict(sorted(files.items()))


def _collect(folder: Path, prefix: str, files: dict[str, Path]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                _collect(Path(entry.path), name + "/", files)
            elif entry.is_file(follow_symlinks=False):
                files[name] = Path(entry.path)
            else:
                what = "a link" if entry.is_symlink() else "a special file"
                raise ArtifactError(
                    f"{entry.path}: {what}; an artifact holds its own files only", remedy="put a copy in its place"
                )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read: {error.strerror}", remedy="check the disk and its rights") from error
