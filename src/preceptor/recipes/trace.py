"""The trace of a document: what became of it, and everything in a run's folder that saw it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.core.artifact import Artifact, Store
from preceptor.core.errors import ArtifactError, DataError
from preceptor.data.index import Index, Place, text_key
from preceptor.data.withdrawal import Withdrawn, withdrawn
from preceptor.recipes.folder import HTML_FILE, JSON_FILE
from preceptor.recipes.reasons import reason
from preceptor.recipes.seen import Order
from preceptor.recipes.taint import all_artifacts, descendants, tainted

MOST_SHOWN_STEPS = 12
_SHORTEST_PREFIX = 4
_LEDGER_COLUMNS = ("id", "source", "collection", "licence", "verdict", "rule", "measured", "limit", "detail")
_DOCUMENT_COLUMNS = ("id", "parent", "source", "origin", "date", "split")


def find(index: Index, query: str, limit: int, *, quotes: bool = True) -> tuple[str, list[Place]]:
    """How a query matched, and where: an id, then a name, then a whole text or a file that holds one, then a quote."""
    for way, places in (
        ("id", index.find_id(query, limit) if len(query) >= _SHORTEST_PREFIX else []),
        ("name", index.find_name(query, limit) or index.find_name(f"file:{query}", limit)),
        ("text", index.find_text(_text_of(query), limit)),
    ):
        if places:
            return way, places
    if quotes and len(query) >= _SHORTEST_PREFIX:
        return "quote", index.quoting(query, limit)
    return "quote", []


def is_withdrawn(gone: Withdrawn, query: str) -> bool:
    """Whether a query is the id or the text of a document that was taken back."""
    return query in gone.ids or text_key(_text_of(query)) in gone.texts


def _text_of(query: str) -> str:
    """The query, or the text of the file that it names."""
    path = Path(query)
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else query
    except (OSError, ValueError):  # too long or odd for a path, or no text: then the query itself is the text
        return query


def trace(out: Path, query: str, *, limit: int = 20) -> dict[str, Any]:
    """What is known of the documents that a query names: id, source, URL, the record's own id, a text or a quote.

    Raises:
        ArtifactError: the folder holds no corpus, or a damaged one.
        DataError: no document matches.
    """
    store = Store(out / "artifacts")
    corpora = store.all("corpus")
    if not corpora:
        raise ArtifactError(f"{out} holds no corpus", remedy=f"build one first: `preceptor data --out {out}`")
    gone, artifacts = withdrawn(out), all_artifacts(store)
    documents: list[dict[str, Any]] = []
    matched = ""
    for corpus in corpora:
        index = Index.open(corpus.path)
        way, places = find(index, query, limit)
        if places:
            matched = matched or way
            entries = _entries(index, places)
            documents += [_document(out, corpus, index, entry, artifacts, gone) for entry in entries[:limit]]
    is_gone = is_withdrawn(gone, query)
    if not documents and not is_gone:
        raise DataError(
            f"no document in {out} matches {query[:80]!r}",
            remedy="give the id, the source as the ledger writes it, a URL, or some words of the text; a document that "
            "was never read is in no ledger",
        )
    return {"query": query, "matched": matched, "withdrawn": is_gone, "documents": documents}


def _entries(index: Index, places: list[Place]) -> list[tuple[Place | None, list[Place]]]:
    """For each document its row in the ledger, and its rows among the kept ones: itself and its noisy copies."""
    entries: dict[str, tuple[Place | None, list[Place]]] = {}
    for place in places:
        root = root_of(index, place)
        if not root:
            # A record that could not be read has no id; its source is all that is known of it.
            entries[f"{place}"] = (place, [])
        elif root not in entries:
            entries[root] = entry(index, root)
    return list(entries.values())


def root_of(index: Index, place: Place) -> str:
    """The id under which a document was read, or the one that it is a noisy copy of; empty if it was unreadable."""
    if place.is_ledger:
        return str(index.row(place, ["id"])["id"])
    row = index.row(place, ["id", "parent"])
    id, parent = row["id"], row["parent"]
    while parent:
        above = [index.row(place, ["id", "parent"]) for place in index.find_id(parent) if not place.is_ledger]
        own = [row for row in above if row["id"] == parent]
        id, parent = parent, own[0]["parent"] if own else None
    return str(id)


def entry(index: Index, root: str) -> tuple[Place | None, list[Place]]:
    """The row in the ledger of a document, and its rows among the kept ones: itself and its noisy copies."""
    found = index.find_id(root)
    kept = {place for place in found if not place.is_ledger}
    for place in sorted(kept):
        kept.update(other for other in index.find_id(index.row(place, ["id"])["id"]) if not other.is_ledger)
    return next((place for place in found if place.is_ledger), None), sorted(kept)


def _document(
    out: Path,
    corpus: Artifact,
    index: Index,
    places: tuple[Place | None, list[Place]],
    artifacts: list[Artifact],
    gone: Withdrawn,
) -> dict[str, Any]:
    ledger, kept = places
    said: dict[str, Any] = {"corpus": corpus.id, "corpus_path": str(corpus.path)}
    if ledger is not None:
        said |= index.row(ledger, list(_LEDGER_COLUMNS))
    rows = [index.row(place, list(_DOCUMENT_COLUMNS)) for place in kept]
    said["kept"] = [
        row | {"shard": f"documents/{place.shard:05d}.parquet", "row": place.row}
        for place, row in zip(kept, rows, strict=True)
    ]
    if said.get("id"):
        said["withdrawn"] = said["id"] in gone.ids
    below = descendants(artifacts, [corpus.id]) if kept else []
    said["tokenizers"] = [a.id for a in below if a.kind == "tokenizer" and any(r["split"] == "train" for r in rows)]
    ids = [row["id"] for row in rows]
    said["tokens"] = [found for a in below if a.kind == "tokens" for found in _token_ranges(a, ids)]
    said["models"] = [_model(out, a, said["tokens"], below) for a in below if a.kind == "checkpoint"]
    marked = tainted(out)
    said["tainted"] = [each.id for each in (corpus, *below) if each.id in marked]
    if kept:
        said["unfinished"] = [str(path) for path in sorted((out / "checkpoints").glob("*/step-*"))]
        said["reports"] = list(_reports(out, [corpus, *below]))
    return said


def _token_ranges(tokens: Artifact, ids: list[str]) -> Iterator[dict[str, Any]]:
    """Where the documents stand in the streams of an artifact."""
    for name in sorted(name for name in tokens.files if name.endswith(".document_ids.npy")):
        split = name.removesuffix(".document_ids.npy")
        names = np.load(tokens.file(name), mmap_mode="r")
        offsets = np.load(tokens.file(f"{split}.offsets.npy"), mmap_mode="r")
        for place in np.flatnonzero(np.isin(names, np.array(ids, names.dtype))) if len(names) else ():
            yield {
                "artifact": tokens.id,
                "split": split,
                "id": bytes(names[place]).decode("ascii"),
                "document": int(place),
                "start": int(offsets[place]),
                "stop": int(offsets[place + 1]),
            }


def _model(out: Path, checkpoint: Artifact, ranges: list[dict[str, Any]], below: list[Artifact]) -> dict[str, Any]:
    """Which steps of a model saw the documents, and what was made from it since."""
    own = [r for r in ranges if r["artifact"] == checkpoint.parents["tokens"]]
    seen: dict[str, Any] = {"steps": [], "first_step": None}
    if any(each["split"] == "train" for each in own):
        order = Order.of(out, checkpoint)
        if order is None:
            seen = {"steps": None, "first_step": None}
        else:
            steps = sorted({s for r in own if r["split"] == "train" for s in order.steps(r["start"], r["stop"])})
            seen = {"steps": steps, "first_step": steps[0] if steps else None}
    made = descendants(below, [checkpoint.id])
    return {
        "checkpoint": checkpoint.id,
        "path": str(checkpoint.path),
        "num_steps": checkpoint.facts.get("num_steps"),
        **seen,
        "validated": any(each["split"] == "validation" for each in own),
        "adapters": [str(a.path) for a in made if a.kind == "adapter"],
        "others": [str(a.path) for a in made if a.kind != "adapter"],
    }


def _reports(out: Path, artifacts: list[Artifact]) -> Iterator[str]:
    """The reports in the folder that name one of the artifacts."""
    for name in (JSON_FILE, HTML_FILE):
        path = out / name
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            if any(artifact.id in text for artifact in artifacts):
                yield str(path)


def as_text(traced: dict[str, Any]) -> str:
    """The trace for people."""
    lines = ["withdrawn: it will be in no corpus that is made here from now on"] if traced["withdrawn"] else []
    for document in traced["documents"]:
        lines += ["", *_document_lines(document)] if lines else _document_lines(document)
    return "\n".join(lines)


def _document_lines(document: dict[str, Any]) -> list[str]:
    lines = [f"{document.get('id') or 'no id'}  {document.get('source', '')}"]
    if document.get("verdict") == "drop":
        why = reason(document["rule"], document["measured"], document["limit"], document["detail"])
        lines.append(f"  corpus {document['corpus'][:16]}: dropped by {why}")
    else:
        lines.append(f"  corpus {document['corpus'][:16]}: kept")
    for row in document["kept"]:
        lines.append(f"    {row['shard']} row {row['row']}, for {row['split']}, as {row['id']}")
    for found in document["tokens"]:
        where = f"{found['split']} tokens {found['start']:,} to {found['stop'] - 1:,}, as {found['id']}"
        lines.append(f"  tokens {found['artifact'][:16]}: {where}")
    for model in document["models"]:
        lines += _model_lines(model)
    lines += [
        f"  state of an unfinished run, which may have seen it: {path}" for path in document.get("unfinished", ())
    ]
    lines += [f"  report: {path}" for path in document.get("reports", ())]
    if document["tainted"]:
        lines.append(f"  withdrawn: {len(document['tainted'])} artifacts are tainted")
    return lines


def _model_lines(model: dict[str, Any]) -> list[str]:
    name = f"  model {model['checkpoint'][:16]}:"
    if model["steps"] is None:
        lines = [f"{name} trained on these tokens; at which steps is not known, for it does not note its settings"]
    elif model["steps"]:
        shown = ", ".join(map(str, model["steps"][:MOST_SHOWN_STEPS]))
        more = len(model["steps"]) - MOST_SHOWN_STEPS
        shown += f" and {more} more" if more > 0 else ""
        lines = [f"{name} saw it at {len(model['steps'])} of {model['num_steps']} steps: {shown}"]
    elif model["validated"]:
        lines = [f"{name} was validated on it, not trained"]
    else:
        lines = [f"{name} did not come to it in {model['num_steps']} steps"]
    lines += [f"    adapter {path}" for path in model["adapters"]]
    return lines + [f"    {path}" for path in model["others"]]
