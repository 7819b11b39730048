"""Artifacts: folders that are verified or invisible, named by what they hold, and that name what they came from.

A folder is written aside as a draft, every file is forced to the disk and digested, the manifest is written last, and
one rename makes the whole visible. Whoever is killed on the way leaves a draft, which the next writer sweeps away.
"""

import difflib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from preceptor.core.canonical import plain
from preceptor.core.drafts import draft_folder, draft_name, sweep
from preceptor.core.errors import ArtifactError, OutputError, output_errors
from preceptor.core.files import exchange, make_folder, sync_and_digest, sync_folder
from preceptor.core.manifest import MANIFEST, FileDigest, Manifest, list_files, sha256_of
from preceptor.core.progress import say

__all__ = ["MANIFEST", "Artifact", "Draft", "FileDigest", "Store", "load", "sweep", "write_folder"]

ID_LENGTH = 16


@dataclass(frozen=True)
class Artifact:
    """A folder whose content is known: what it is, what it was made from, and the digest of every file."""

    path: Path
    kind: str
    id: str
    key: str
    parents: dict[str, str]
    facts: dict[str, Any]
    notes: dict[str, Any]
    files: dict[str, FileDigest]
    created: float = 0.0

    def file(self, name: str) -> Path:
        """The path of one of its files.

        Raises:
            ArtifactError: it has no such file.
        """
        if name not in self.files:
            near = difflib.get_close_matches(name, self.files, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(self.files) or 'none'}"
            raise ArtifactError(f"{self.path}: this {self.kind} has no file {name!r}{hint}")
        return self.path / name

    def verify(self, *, digests: bool = True) -> None:
        """Check that exactly its files are there, of the right size and, unless told otherwise, the right content.

        Raises:
            ArtifactError: names the first file that is missing, added or changed.
        """
        remedy = f"delete {self.path} and run again; what made it will make it anew"
        found = list_files(self.path)
        for name, expected in self.files.items():
            if name not in found:
                raise ArtifactError(f"{self.path / name}: missing from this {self.kind}", remedy=remedy)
            num_bytes = found.pop(name).stat().st_size
            if num_bytes != expected.bytes:
                raise ArtifactError(
                    f"{self.path / name}: corrupt: expected {expected.bytes:,} bytes, found {num_bytes:,}",
                    remedy=remedy,
                )
            if digests and (sha256 := sha256_of(self.path / name)) != expected.sha256:
                raise ArtifactError(
                    f"{self.path / name}: corrupt: expected SHA-256 {expected.sha256}, found {sha256}", remedy=remedy
                )
        for name in found:
            raise ArtifactError(
                f"{self.path / name}: not part of this {self.kind}", remedy="move the file out of the artifact"
            )


@dataclass
class Draft:
    """A folder being filled, and what will be said about it: facts are part of its identity, notes are not."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    written: Artifact | None = None

    @property
    def artifact(self) -> Artifact:
        """The finished artifact, once the block has ended without an error."""
        if self.written is None:
            raise RuntimeError("the artifact exists only after its block has ended without an error")
        return self.written


def load(folder: Path, kind: str | None = None, verify: bool = True) -> Artifact:
    """The artifact in a folder; `verify=False` checks names and sizes but reads no file.

    Raises:
        ArtifactError: missing, corrupt or of another kind; names the file, what was expected and what was found.
    """
    manifest = Manifest.read(folder)
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(
            f"{folder}: expected an artifact of kind {kind!r}, found {manifest.kind!r}", remedy=f"give a {kind}"
        )
    artifact = _artifact(folder, manifest)
    artifact.verify(digests=verify)
    return artifact


def _artifact(folder: Path, manifest: Manifest) -> Artifact:
    said = {each.name: getattr(manifest, each.name) for each in fields(manifest)}
    return Artifact(path=folder, id=manifest.id, **said)


@contextmanager
def write_folder(target: Path, kind: str, key: str, parents: Mapping[str, str]) -> Iterator[Draft]:
    """A draft that becomes the artifact `target` when the block ends, and nothing if it fails.

    An artifact of the same content that is there already and verifies is kept; another one of the same kind is
    replaced in one atomic step.

    Raises:
        OutputError: it cannot be written; what was there before is still there.
        ArtifactError: the block left a link or another special file in the draft.
    """
    with _drafting(target.parent, target.name, kind, key, parents, lambda said: target) as draft:
        yield draft


@contextmanager
def _drafting(
    parent: Path,
    name: str,
    kind: str,
    key: str,
    parents: Mapping[str, str],
    target_of: Callable[[Manifest], Path],
) -> Iterator[Draft]:
    make_folder(parent)
    sweep(parent)
    with output_errors(parent), draft_folder(parent, name) as folder:
        draft = Draft(folder)
        yield draft
        manifest = _seal(draft, kind, key, parents)
        target = target_of(manifest)
        with output_errors(target):
            draft.written = _place(folder, target, manifest)


def _seal(draft: Draft, kind: str, key: str, parents: Mapping[str, str]) -> Manifest:
    """The manifest of a draft of which every file and folder is on the disk, the manifest last of all."""
    files = {}
    folders = {draft.path}
    for name, path in list_files(draft.path).items():
        sha256, num_bytes = sync_and_digest(path)
        files[name] = FileDigest(sha256=sha256, bytes=num_bytes)
        folders.update(folder for folder in path.parents if folder.is_relative_to(draft.path))
    for folder in sorted(folders, reverse=True):
        sync_folder(folder)
    manifest = Manifest(
        kind=kind,
        key=key,
        parents=dict(parents),
        facts={name: plain(fact, where=f"facts.{name}") for name, fact in draft.facts.items()},
        notes={name: plain(note, where=f"notes.{name}") for name, note in draft.notes.items()},
        files=files,
        created=time.time(),
    )
    manifest.write(draft.path)
    sync_folder(draft.path)
    return manifest


def _place(draft: Path, target: Path, manifest: Manifest) -> Artifact:
    """The artifact at its target: the draft, or what was there if that has the same content and verifies."""
    while True:
        try:
            return _place_once(draft, target, manifest)
        except FileNotFoundError:
            # Another process has taken away what was in the way, between two looks at it.
            if not draft.exists() or not target.parent.is_dir():
                raise


def _place_once(draft: Path, target: Path, manifest: Manifest) -> Artifact:
    try:
        os.rename(draft, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if (old := _verified(target)) is not None:
            if old.id == manifest.id:
                return old
            if old.kind != manifest.kind:
                raise OutputError(
                    f"cannot write {target}: it holds an artifact of another kind: {old.kind}",
                    remedy="choose another folder, or delete that one",
                ) from error
        _replace(draft, target, old)
    sync_folder(target.parent)
    return _artifact(target, manifest)


def _verified(folder: Path) -> Artifact | None:
    try:
        return load(folder)
    except ArtifactError:
        return None


def _replace(draft: Path, target: Path, old: Artifact | None) -> None:
    """Put the draft in the place of what is there; only what is known to be corrupt is ever out of place before."""
    if not (target / MANIFEST).exists():
        # Not an artifact, or not one any more. It may be anything, so it is not ours to delete.
        aside = target.with_name(f"{target.name}.aside-{secrets.token_hex(4)}")
        os.rename(target, aside)
        os.rename(draft, target)
        say(f"{target} was not an artifact; what was there is now in {aside}")
    elif not exchange(draft, target):
        if old is not None:
            raise OutputError(
                f"cannot write {target}: it holds another artifact, and this file system cannot replace it in one step",
                remedy="choose another folder, or delete that one",
            )
        aside = target.with_name(draft_name(target.name))
        os.rename(target, aside)
        os.rename(draft, target)
        shutil.rmtree(aside, ignore_errors=True)


def _warn(folder: Path, error: ArtifactError) -> None:
    say(f"skipping a corrupt artifact: {error}")


class Store:
    """The artifacts of a run: `root/kind/<first 16 digits of the id>`."""

    def __init__(self, root: Path, on_corrupt: Callable[[Path, ArtifactError], None] = _warn) -> None:
        self.root = root
        self.on_corrupt = on_corrupt
        self._reported: set[Path] = set()

    @contextmanager
    def draft(self, kind: str, key: str, parents: Mapping[str, str]) -> Iterator[Draft]:
        """A draft that becomes an artifact of this store when the block ends, and nothing if it fails.

        Raises:
            OutputError: it cannot be written.
            ArtifactError: the block left a link or another special file in the draft.
        """
        parent = self.root / kind
        with _drafting(parent, kind, kind, key, parents, lambda said: parent / said.id[:ID_LENGTH]) as draft:
            yield draft

    def find(self, kind: str, key: str, *, verify: bool = True) -> Artifact | None:
        """The newest sound artifact made under a key, or None; corrupt ones are reported and skipped."""
        for artifact in self.all(kind):
            if artifact.key != key:
                continue
            try:
                artifact.verify(digests=verify)
            except ArtifactError as error:
                self._report(artifact.path, error)
            else:
                return artifact
        return None

    def _report(self, folder: Path, error: ArtifactError) -> None:
        if folder not in self._reported:
            self._reported.add(folder)
            self.on_corrupt(folder, error)

    def load(self, kind: str, id: str) -> Artifact:
        """The artifact of that id, or of the id that starts so.

        Raises:
            ArtifactError: it is missing or corrupt.
        """
        artifact = load(self.root / kind / id[:ID_LENGTH], kind)
        if not artifact.id.startswith(id):
            raise ArtifactError(f"{artifact.path}: expected the id {id}, found {artifact.id}")
        return artifact

    def all(self, kind: str) -> list[Artifact]:
        """Every artifact of a kind, newest first, its files not yet verified; corrupt manifests are reported."""
        folder = self.root / kind
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        found = []
        for path in (folder / name for name in names if len(name) == ID_LENGTH and (folder / name).is_dir()):
            try:
                found.append(_artifact(path, Manifest.read(path)))
            except ArtifactError as error:
                self._report(path, error)
        return sorted(found, key=lambda artifact: artifact.created, reverse=True)

    def sweep(self) -> list[Path]:
        """The drafts that dead processes left in the store, now removed."""
        kinds = sorted(self.root.iterdir()) if self.root.is_dir() else []
        return [path for kind in kinds for path in sweep(kind)]
