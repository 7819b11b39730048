"""Forgetting: a document is withdrawn with its duplicates, and what descends from it is marked as tainted."""

import getpass
import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from preceptor.core.artifact import Artifact, Store
from preceptor.core.errors import ArtifactError, DataError, output_errors
from preceptor.core.lock import hold
from preceptor.data.index import Index, Place
from preceptor.data.withdrawal import Withdrawal, Withdrawn, keys_of, record, withdrawn
from preceptor.recipes import seen
from preceptor.recipes.folder import HTML_FILE, JSON_FILE
from preceptor.recipes.taint import all_artifacts, descendants, mark, tainted
from preceptor.recipes.trace import entry, find, is_withdrawn, root_of

_DUPLICATE_RULES = frozenset({"exact-duplicate", "near-duplicate", "duplicate-id"})
_NO_LIMIT = 1 << 62
_NOTHING: dict[str, Any] = {
    **dict.fromkeys(("when", "who", "why"), ""),
    **dict.fromkeys(("asked", "duplicates", "already", "tainted", "unfinished"), ()),
}


def forget(
    out: Path, queries: Sequence[str], *, why: str, who: str = "", duplicates: bool = True, delete: bool = False
) -> dict[str, Any]:
    """What was withdrawn and what is tainted by it: both are then recorded in the folder.

    What was withdrawn before is named as ``already``, and nothing is recorded or tainted for it again.

    With ``duplicates``, what the ledger knows as an exact or near duplicate goes too, else it would take the place of
    the document. With ``delete``, tainted artifacts are removed, and so are states of unfinished runs and parts of
    unfinished corpora, which may hold the text; without a query it removes what earlier ones have tainted.

    Raises:
        ArtifactError: the folder holds no corpus, or a damaged one.
        DataError: a query matches no document, or is a quote or the start of an id that fits several.
        OutputError: it cannot be recorded.
    """
    if not queries and not delete:
        raise DataError("no document is named", remedy="give an id, a source, a URL or the text of a document")
    with hold(out):
        forgotten = _withdraw(out, queries, why, who or _user(), duplicates) if queries else dict(_NOTHING)
        deleted = delete_tainted(out) if delete else []
        return forgotten | {"deleted": [str(path) for path in deleted]}


def _withdraw(out: Path, queries: Sequence[str], why: str, who: str, duplicates: bool) -> dict[str, Any]:
    store = Store(out / "artifacts")
    gone = withdrawn(out)
    corpora = store.all("corpus")
    if not corpora and not all(is_withdrawn(gone, query) for query in queries):
        raise ArtifactError(f"{out} holds no corpus", remedy=f"build one first: `preceptor data --out {out}`")
    indexes = [(corpus, Index.open(corpus.path)) for corpus in corpora]
    found = {query: _ids(indexes, query, gone) for query in queries}
    named = {id for ids in found.values() for id in ids}
    already = [*sorted(named & gone.ids), *(query[:80] for query, ids in found.items() if not ids)]
    ids = named - gone.ids
    asked = frozenset(ids)
    if duplicates:
        for _, index in indexes:
            ids |= _duplicates(index, ids) - gone.ids
    if not ids:
        return _NOTHING | {"already": already}
    marks, texts = _reach(all_artifacts(store), indexes, ids)
    # Marked first: should the power fail between the two, too much is refused rather than too little.
    mark(out, marks)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    record(out, Withdrawal(when=when, who=who, why=why, ids=tuple(sorted(ids)), texts=keys_of(sorted(texts))))
    return {
        "when": when,
        "who": who,
        "why": why,
        "asked": sorted(asked),
        "duplicates": sorted(ids - asked),
        "already": already,
        "tainted": [{"kind": a.kind, "id": a.id, "path": str(a.path)} for a, _ in marks.values()],
        "unfinished": [str(path) for path in _unfinished(out)],
    }


def _reach(
    artifacts: Sequence[Artifact], indexes: Iterable[tuple[Artifact, Index]], ids: Iterable[str]
) -> tuple[dict[str, tuple[Artifact, set[str]]], set[str]]:
    """The artifacts that know one of the documents, each with which, and the texts of those that were kept.

    A corpus that dropped a document knows it, for it may show it as a sample; what is made from that corpus does not.
    """
    marks: dict[str, tuple[Artifact, set[str]]] = {}
    texts: set[str] = set()
    for corpus, index in indexes:
        below = descendants(artifacts, [corpus.id])
        for id in sorted(ids):
            ledger, kept = entry(index, id)
            texts.update(index.row(place, ["text"])["text"] for place in kept)
            for artifact in (corpus, *(below if kept else ())) if ledger is not None else ():
                marks.setdefault(artifact.id, (artifact, set()))[1].add(id)
    return marks, texts


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that no name belongs to
        return "unknown"


def _ids(indexes: Iterable[tuple[Artifact, Index]], query: str, gone: Withdrawn) -> set[str]:
    """The ids under which the documents that a query names were read; none for a text that is known as withdrawn."""
    if query in gone.ids:
        return {query}
    ids: set[str] = set()
    ways: set[str] = set()
    for _, index in indexes:
        way, places = find(index, query, _NO_LIMIT)
        found = {root_of(index, place) for place in places} - {""}
        ids |= found
        ways |= {way} if found else set()
    if not ids and not is_withdrawn(gone, query):
        raise DataError(
            f"no document matches {query[:80]!r}", remedy="look for it with `preceptor data trace`, and give its id"
        )
    # A source or a text stands for all that bear it; half an id or some words may have hit what nobody meant.
    if len(ids) > 1 and ways & {"id", "quote"}:
        some = ", ".join(sorted(ids)[:5])
        raise DataError(f"{query[:80]!r} fits {len(ids)} documents: {some}", remedy="give the whole id of each")
    return ids


def _duplicates(index: Index, ids: set[str]) -> set[str]:
    """The documents that the ledger knows as duplicates of these, or as what these were duplicates of."""
    sources = set()
    for id in ids:
        place = entry(index, id)[0]
        if place is None:
            continue
        row = index.row(place, ["source", "rule", "detail"])
        sources.add(row["source"])
        if row["rule"] in _DUPLICATE_RULES:
            sources.add(row["detail"].removeprefix("of "))
    found: set[str] = set()
    for source in sources:
        found.update(
            root_of(index, place) for place in index.find_name(source, _NO_LIMIT) if _is_of(index, place, source)
        )
    for row in index.ledger(["id", "rule", "detail"]):
        if row["rule"] in _DUPLICATE_RULES and row["detail"].removeprefix("of ") in sources:
            found.add(row["id"])
    return found - {""}


def _is_of(index: Index, place: Place, source: str) -> bool:
    """Whether a row is of exactly that source, not only of a record in that file."""
    return bool(index.row(place, ["source"])["source"] == source)


def _unfinished(out: Path) -> list[Path]:
    """What killed runs have left to go on from; of whom it is cannot be told, so it may hold what was withdrawn."""
    return [path for name in ("checkpoints", "work") for path in sorted((out / name).glob("*"))]


def delete_tainted(out: Path) -> list[Path]:
    """What was removed: tainted artifacts, what unfinished runs left, and reports that name a tainted artifact.

    The record of taint stays, so that a copy of an artifact that is put back is still refused.

    Raises:
        ArtifactError: the record of taint is damaged.
        OutputError: a folder cannot be removed.
    """
    marked = tainted(out)
    gone = [artifact for artifact in all_artifacts(Store(out / "artifacts")) if artifact.id in marked]
    paths = [artifact.path for artifact in gone] + _unfinished(out)
    paths += [out / seen.FOLDER / artifact.id[:16] for artifact in gone]
    paths += [out / "metrics" / f"{stage}-{a.key[:12]}.jsonl" for a in gone for stage in ("pretrain", "finetune")]
    for name in (JSON_FILE, HTML_FILE):
        path = out / name
        if path.is_file() and any(artifact.id in path.read_text(encoding="utf-8") for artifact in gone):
            paths += [out / JSON_FILE, out / HTML_FILE]
    removed = [path for path in dict.fromkeys(paths) if path.exists()]
    with output_errors(out):
        for path in removed:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    return removed


def as_text(forgotten: dict[str, Any], out: Path) -> str:
    """What was done, for people."""
    number = len(forgotten["asked"]) + len(forgotten["duplicates"])
    lines = [f"already withdrawn, nothing was changed: {id}" for id in forgotten["already"]]
    lines += [f"withdrawn: {number} document{'s' if number > 1 else ''}"] if number else []
    lines += [f"  {id}" for id in forgotten["asked"]]
    lines += [f"  {id} (a duplicate)" for id in forgotten["duplicates"]]
    lines += [f"tainted: {each['kind']} {each['path']}" for each in forgotten["tainted"]]
    deleted = set(forgotten["deleted"])
    lines += [f"deleted: {path}" for path in forgotten["deleted"]]
    lines += [f"may hold it: {path}" for path in forgotten["unfinished"] if path not in deleted]
    if forgotten["already"] and not number and not deleted:
        return "\n".join(lines)
    kinds = {each["kind"] for each in forgotten["tainted"]}
    if kinds & {"checkpoint", "adapter"}:
        lines.append("Tainted models are refused from now on.")
    lines.append(f"To make anew what is tainted, as if it had never been read: preceptor run RECIPE --out {out}")
    if not forgotten["deleted"]:
        lines.append(f"To remove what is tainted: preceptor data forget --delete --out {out}")
    return "\n".join(lines)
