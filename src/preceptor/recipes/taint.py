"""Taint: which artifacts descend from a document that was withdrawn, and are not to be used until made anew."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from preceptor.core.artifact import Artifact, Store
from preceptor.core.drafts import write_file
from preceptor.core.errors import ArtifactError

TAINTED_FILE = "tainted.json"


def all_artifacts(store: Store) -> list[Artifact]:
    """Every artifact of a store, oldest first."""
    kinds = sorted(path.name for path in store.root.iterdir() if path.is_dir()) if store.root.is_dir() else []
    found = [artifact for kind in kinds for artifact in store.all(kind)]
    return sorted(found, key=lambda artifact: (artifact.created, artifact.id))


def descendants(artifacts: Iterable[Artifact], ancestors: Iterable[str]) -> list[Artifact]:
    """The artifacts that were made from one of those ids, or from what was made from it, and so on."""
    artifacts = list(artifacts)
    reached = set(ancestors)
    found: dict[str, Artifact] = {}
    while new := [a for a in artifacts if a.id not in found and reached.intersection(a.parents.values())]:
        found |= {artifact.id: artifact for artifact in new}
        reached |= found.keys()
    return list(found.values())


def tainted(out: Path) -> dict[str, dict[str, Any]]:
    """What is tainted in a run's folder: for each artifact by id its kind and the ids of the withdrawn documents.

    Raises:
        ArtifactError: the record is damaged.
    """
    path = out / TAINTED_FILE
    try:
        table: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["artifacts"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} cannot be read: {error}", remedy="restore it, or run `preceptor data forget` again"
        ) from error
    return table


def mark(out: Path, artifacts: Mapping[str, tuple[Artifact, set[str]]]) -> None:
    """Mark artifacts as tainted by documents, beside those that are.

    Raises:
        OutputError: the record cannot be written.
    """
    table = tainted(out)
    for id, (artifact, documents) in artifacts.items():
        earlier = table.get(id, {}).get("documents", [])
        table[id] = {"kind": artifact.kind, "documents": sorted({*earlier, *documents})}
    write_file(out / TAINTED_FILE, json.dumps({"artifacts": table}, indent=2, sort_keys=True) + "\n")


def sound(out: Path, artifacts: Iterable[Artifact]) -> list[Artifact]:
    """Those of the artifacts that are not tainted, in their order."""
    marked = tainted(out)
    return [artifact for artifact in artifacts if artifact.id not in marked]


def require_sound(out: Path, artifacts: Iterable[Artifact | None]) -> None:
    """Refuse tainted artifacts.

    Raises:
        ArtifactError: names the first that is tainted, and how to make it anew.
    """
    marked = tainted(out)
    for artifact in artifacts:
        if artifact is not None and artifact.id in marked:
            number = len(marked[artifact.id]["documents"])
            documents = "a document that was" if number == 1 else f"{number} documents that were"
            raise ArtifactError(
                f"{artifact.path}: this {artifact.kind} descends from {documents} withdrawn, and is not used any more",
                remedy=f"make it anew without them, with the same recipe: `preceptor run RECIPE --out {out}`",
            )


def usable(out: Path, artifacts: Sequence[Artifact]) -> list[Artifact]:
    """Those of the artifacts that are not tainted, in their order; none only where there was none.

    Raises:
        ArtifactError: all of them are tainted.
    """
    found = sound(out, artifacts)
    if not found:
        require_sound(out, artifacts)
    return found
