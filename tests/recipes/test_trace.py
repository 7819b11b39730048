"""A document is traced through a run; once forgotten it is refused, and what is made anew never had it, bit for bit."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preceptor.core.artifact import Store
from preceptor.core.config import encode
from preceptor.core.errors import ArtifactError, DataError
from preceptor.data import index
from preceptor.data.document import KEEP, Document
from preceptor.data.mixture import Blending, MixtureConfig
from preceptor.data.withdrawal import Withdrawn, withdrawals, withdrawn
from preceptor.models.decoder_config import DecoderConfig
from preceptor.recipes.forget import as_text as forgotten_text
from preceptor.recipes.forget import delete_tainted, forget
from preceptor.recipes.seen import Order
from preceptor.recipes.taint import descendants, require_sound, sound, tainted, usable
from preceptor.recipes.trace import as_text, trace
from preceptor.tokenizer import stream
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.stream import TokenStream
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.tokenizer.training import train
from preceptor.train.blend import pretraining_order
from preceptor.train.pretrain import pretrain
from preceptor.train.run import PretrainingConfig
from preceptor.train.warmup_config import BatchWarmupConfig

MODEL = DecoderConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    max_position_embeddings=32,
)
PRETRAINING = PretrainingConfig(
    context_length=32,
    batch_tokens=128,
    micro_batch_tokens=128,
    duration="30 steps",
    validation_tokens=64,
    validation_every_steps=15,
    checkpoint_every_steps=100,
    batch_warmup=BatchWarmupConfig(start_tokens=32, steps=12),
)
ONE_STREAM = Blending()
BLENDED = Blending(MixtureConfig(kind="weights"), {"a": (1.0, 0.0), "b": (3.0, 0.0)})
WORDS = ("river", "stone", "garden", "window", "paper", "silver", "morning", "letter", "answer", "winter", "bridge")
SEED = 5


def words(number, length=40):
    draw = np.random.default_rng(number)
    return " ".join(draw.choice(WORDS, length)) + f" {number}"


def documents(num_documents=60):
    return [
        Document.new(
            words(n, 10 + 7 * (n % 11)),
            f"file:{n}.txt",
            licence="CC0-1.0",
            collection="ab"[n % 3 == 0],
            origin=f"x:{n}",
        )
        for n in range(num_documents)
    ]


class StillRunning:
    requested = False

    def check(self):
        """Nobody asks for a stop."""


def make_corpus(store, members, gone):
    """A corpus as the data stage lays it out: a copy of document 7 left as a duplicate, document 8 as too short."""
    rules = {f"file:{7}-again.txt": ("exact-duplicate", "of file:7.txt"), "file:8.txt": ("too-short", "")}
    kept, ledger = [], []
    for document in members:
        rule, detail = rules.get(document.source, ("", ""))
        if gone.judge(document) != KEEP:
            rule, detail = "withdrawn", ""
        entry = {"id": document.root_id, "collection": document.collection, "licence": document.licence}
        verdict = "drop" if rule else "keep"
        entry |= {"source": document.source, "verdict": verdict, "rule": rule, "measured": 0.0, "limit": 0.0}
        ledger.append(entry | {"detail": detail})
        if not rule:
            kept.append(document)
    with store.draft("corpus", f"{gone.digest}{len(members)}", {}) as draft:
        for name in ("documents", "ledger"):
            (draft.path / name).mkdir()
        pq.write_table(pa.Table.from_pylist(ledger), draft.path / "ledger/00000.parquet")
        rows = [asdict(d) | {"metadata": "{}", "split": split_of(d)} for d in kept]
        pq.write_table(pa.Table.from_pylist(rows), draft.path / "documents/00000.parquet", row_group_size=16)
        index.write_from_shards(draft.path)
    return draft.artifact, kept


def split_of(document):
    return "validation" if document.origin.endswith("4") else "train"


def make_tokens(store, corpus, kept):
    with store.draft("tokenizer", corpus.id, {"corpus": corpus.id}) as draft:
        texts = (d.text for d in kept if split_of(d) == "train")
        train(texts, TokenizerConfig(vocab_size=300), draft.path)
    tokenizer = draft.artifact
    with store.draft("tokens", corpus.id, {"corpus": corpus.id, "tokenizer": tokenizer.id}) as draft:
        splits = {split: [d for d in kept if split_of(d) == split] for split in ("train", "validation")}
        stream.encode(splits, Tokenizer.load(tokenizer.path), draft)
    return tokenizer, draft.artifact


def make_model(out, tokenizer, tokens, blending=ONE_STREAM):
    parents = {"tokens": tokens.id, "tokenizer": tokenizer.id}
    settings = {"pretraining": encode(PRETRAINING), "seed": SEED, "blending": encode(blending), "model": {}}
    loaded = Tokenizer.load(tokenizer.path)
    key = f"{blending.config.kind}{tokens.id}"
    with Store(out / "artifacts").draft("checkpoint", key, parents) as draft:
        result = pretrain(
            model_config=MODEL,
            config=PRETRAINING,
            train=TokenStream.open(tokens.path, "train", loaded),
            validation=TokenStream.open(tokens.path, "validation", loaded),
            tokenizer=loaded,
            draft=draft,
            checkpoints=out / "checkpoints" / "pretrain-test",
            run_key=key,
            seed=SEED,
            metrics=out / "metrics.jsonl",
            stop=StillRunning(),
            blending=blending,
        )
        draft.facts |= result.facts
        draft.notes["settings"] = settings
    return draft.artifact


def make_run(out, members, blending=ONE_STREAM):
    store = Store(out / "artifacts")
    corpus, kept = make_corpus(store, members, withdrawn(out))
    tokenizer, tokens = make_tokens(store, corpus, kept)
    return make_model(out, tokenizer, tokens, blending)


def everything():
    members = documents()
    again = Document.new(members[7].text.upper(), "file:7-again.txt", licence="CC0-1.0", collection="a", origin="x:z")
    return [*members, again]


def made_with(folder, blending):
    checkpoint = make_run(folder, everything(), blending)
    with Store(folder / "artifacts").draft("adapter", "a", {"checkpoint": checkpoint.id}) as draft:
        (draft.path / "adapter.json").write_text("{}")
    return folder, checkpoint, blending


@pytest.fixture(scope="module")
def one_stream(tmp_path_factory):
    return made_with(tmp_path_factory.mktemp("run"), ONE_STREAM)


@pytest.fixture(scope="module", params=["one-stream", "blended"])
def made(request, one_stream, tmp_path_factory):
    return one_stream if request.param == "one-stream" else made_with(tmp_path_factory.mktemp("blended"), BLENDED)


@pytest.fixture
def run(one_stream, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(one_stream[0], tmp_path / "run")
    return tmp_path / "run"


def steps_that_drew(out, checkpoint, blending, start, stop):
    """The steps whose batches hold one of these tokens, found by drawing every batch."""
    tokenizer = Tokenizer.load(checkpoint.path)
    tokens = TokenStream.open(
        Store(out / "artifacts").load("tokens", checkpoint.parents["tokens"]).path, "train", tokenizer
    )
    order = pretraining_order(tokens, PRETRAINING, tokenizer, SEED, blending, DecoderConfig())
    wanted = set(order.objective.plan.rows_of(start, stop))
    return [step + 1 for step in range(order.num_steps) if wanted.intersection(order.batches.rows(step))]


def test_the_steps_of_every_document_are_those_whose_batches_held_it(made):
    out, checkpoint, blending = made
    num_seen = []
    for document in documents():
        if document.source == "file:8.txt":
            continue
        (found,) = trace(out, document.id)["documents"]
        (tokens,) = found["tokens"]
        (model,) = found["models"]
        assert tokens["split"] == split_of(document)
        if tokens["split"] == "validation":
            assert model["steps"] == []
            assert model["validated"]
            continue
        expected = steps_that_drew(out, checkpoint, blending, tokens["start"], tokens["stop"])
        assert model["steps"] == expected
        num_seen.append(len(expected))
    assert max(num_seen) > 1, "no document was seen twice, so epochs were not tried"


def test_the_tokens_of_a_trace_are_those_of_the_text(made):
    out, checkpoint, _ = made
    document = documents()[20]
    (found,) = trace(out, document.id)["documents"][0]["tokens"]
    tokenizer = Tokenizer.load(checkpoint.path)
    folder = Store(out / "artifacts").load("tokens", found["artifact"]).path
    ids = TokenStream.open(folder, "train", tokenizer).tokens[found["start"] : found["stop"] - 1]
    assert tokenizer.decode(ids.tolist()) == document.text


@pytest.mark.parametrize(
    ("query", "matched"),
    [
        (lambda d: d.id, "id"),
        (lambda d: d.id[:7], "id"),
        (lambda d: d.source, "name"),
        (lambda d: d.source.removeprefix("file:"), "name"),
        (lambda d: d.origin, "name"),
        (lambda d: f"  {d.text.upper()}.", "text"),
        (lambda d: d.text[-30:], "quote"),
    ],
)
def test_a_document_is_found_by_whatever_is_known_of_it(made, query, matched):
    out, _, _ = made
    document = documents()[11]
    traced = trace(out, query(document))
    assert traced["matched"] == matched
    assert [found["id"] for found in traced["documents"]] == [document.id]
    assert json.loads(json.dumps(traced)) == traced


def test_a_file_that_holds_the_text_finds_it_too(made, tmp_path):
    path = tmp_path / "page.txt"
    path.write_text(documents()[11].text)
    assert trace(made[0], str(path))["documents"][0]["id"] == documents()[11].id


def test_a_trace_names_what_descends_and_says_why_a_document_left(made):
    out, checkpoint, _ = made
    said = as_text(trace(out, documents()[0].id))
    assert "adapter" in said and checkpoint.id[:16] in said and "documents/00000.parquet row 0" in said
    dropped = trace(out, "file:8.txt")["documents"][0]
    assert (dropped["rule"], dropped["models"], dropped["kept"]) == ("too-short", [], [])
    assert "dropped by exact-duplicate of file:7.txt" in as_text(trace(out, "file:7-again.txt"))
    with pytest.raises(DataError, match="no document"):
        trace(out, "file:never-read.txt")


def test_an_order_is_kept_so_that_the_next_trace_needs_no_model(made):
    out, checkpoint, _ = made
    first = Order.of(out, checkpoint)
    files = sorted(p.stat().st_mtime_ns for p in (out / "orders").rglob("*.npy"))
    again = Order.of(out, checkpoint)
    assert files == sorted(p.stat().st_mtime_ns for p in (out / "orders").rglob("*.npy"))
    assert again.rows == first.rows


def test_a_trace_does_not_wait_for_torch(made):
    out, checkpoint, _ = made
    Order.of(out, checkpoint)
    code = (
        "import sys; from pathlib import Path; from preceptor.recipes.trace import trace; "
        "traced = trace(Path(sys.argv[1]), sys.argv[2]); "
        "print(len(traced['documents'][0]['models'][0]['steps']), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, out, documents()[0].id]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    num_steps, has_torch = child.stdout.split()
    assert int(num_steps) > 0 and has_torch == "False"


def test_a_checkpoint_that_notes_no_settings_is_named_without_steps(run):
    (checkpoint,) = Store(run / "artifacts").all("checkpoint")
    with Store(run / "artifacts").draft("checkpoint", "old", checkpoint.parents) as draft:
        (draft.path / "model.bin").write_bytes(b"")
    models = trace(run, documents()[0].id)["documents"][0]["models"]
    assert {model["checkpoint"]: model["steps"] is None for model in models} == {
        checkpoint.id: False,
        draft.artifact.id: True,
    }


def test_forgetting_marks_what_descends_and_takes_the_duplicates_along(run):
    members = everything()
    forgotten = forget(run, ["file:7.txt"], why="the author asked", who="me")
    assert forgotten["asked"] == [members[7].id]
    assert forgotten["duplicates"] == [members[-1].id]
    (line,) = withdrawals(run)
    assert (line.why, line.who, set(line.ids)) == ("the author asked", "me", {members[7].id, members[-1].id})
    kinds = sorted(each["kind"] for each in tainted(run).values())
    assert kinds == ["adapter", "checkpoint", "corpus", "tokenizer", "tokens"]
    store = Store(run / "artifacts")
    (corpus,) = store.all("corpus")
    with pytest.raises(ArtifactError, match="2 documents that were withdrawn"):
        require_sound(run, [corpus])
    for kind in ("checkpoint", "adapter"):
        with pytest.raises(ArtifactError, match="a document that was withdrawn") as raised:
            require_sound(run, store.all(kind))
        assert "preceptor run" in raised.value.remedy
        assert sound(run, store.all(kind)) == []
    traced = trace(run, members[7].id)
    assert traced["withdrawn"] and len(traced["documents"][0]["tainted"]) == 5
    assert "tainted" in as_text(traced)


def test_forgetting_a_duplicate_forgets_what_stayed_in_its_place(run):
    members = everything()
    assert forget(run, [members[-1].id], why="asked")["duplicates"] == [members[7].id]


def test_only_the_one_is_forgotten_where_that_is_wanted(run):
    members = everything()
    forgotten = forget(run, [members[7].id], why="asked", duplicates=False)
    assert forgotten["duplicates"] == []
    # The copy has the same text, so that it is not let in even so.
    assert withdrawn(run).judge(members[-1]) != KEEP
    assert withdrawn(run).judge(members[6]) == KEEP


def test_a_document_that_was_dropped_taints_no_model(run):
    forget(run, ["file:8.txt"], why="asked")
    assert [each["kind"] for each in tainted(run).values()] == ["corpus"]
    require_sound(run, Store(run / "artifacts").all("checkpoint"))


def test_what_fits_several_documents_is_refused(run):
    with pytest.raises(DataError, match="fits"):
        forget(run, [" ".join(WORDS[:1])], why="asked")
    with pytest.raises(DataError, match="no document"):
        forget(run, ["file:9999.txt"], why="asked")
    assert withdrawals(run) == [] and tainted(run) == {}


def test_deleting_removes_what_is_tainted_and_what_may_hold_the_text(run):
    state = run / "checkpoints" / "pretrain-killed" / "step-0000010"
    state.mkdir(parents=True)
    (checkpoint,) = Store(run / "artifacts").all("checkpoint")
    trace(run, documents()[7].id)
    (run / "report.json").write_text(json.dumps({"artifact": checkpoint.id}))
    (run / "report.html").write_text("page")
    forgotten = forget(run, ["file:7.txt"], why="asked", delete=True)
    assert not any(Store(run / "artifacts").all(kind) for kind in ("corpus", "tokens", "checkpoint", "adapter"))
    assert not state.exists() and not (run / "report.html").exists()
    assert not list((run / "orders").iterdir())
    assert "deleted" in forgotten_text(forgotten, run)
    assert withdrawn(run).judge(documents()[7]) != KEEP
    assert delete_tainted(run) == []
    secret = documents()[7].text.encode()
    held = [path for path in run.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert held == []


def test_deleting_later_removes_what_was_marked_before(run):
    forget(run, ["file:7.txt"], why="asked")
    deleted = forget(run, [], why="", delete=True)["deleted"]
    assert len(deleted) >= 5 and len(withdrawals(run)) == 1
    with pytest.raises(DataError, match="no document is named"):
        forget(run, [], why="")


def test_the_newest_that_is_sound_is_used_and_only_tainted_ones_are_refused(run):
    forget(run, ["file:7.txt"], why="asked")
    store = Store(run / "artifacts")
    with pytest.raises(ArtifactError, match="withdrawn"):
        usable(run, store.all("checkpoint"))
    with store.draft("checkpoint", "new", {}) as draft:
        (draft.path / "model.bin").write_bytes(b"")
    assert usable(run, store.all("checkpoint")) == [draft.artifact]
    assert usable(run, []) == []


def test_a_damaged_record_of_taint_refuses_everything(run):
    (run / "tainted.json").write_text('{"artifacts"')
    with pytest.raises(ArtifactError, match=r"tainted\.json"):
        require_sound(run, Store(run / "artifacts").all("checkpoint"))


def weights(checkpoint):
    return (checkpoint.path / "model.safetensors").read_bytes()


def test_made_anew_after_forgetting_no_bit_differs_from_never_having_had_the_document(run, tmp_path):
    (before,) = Store(run / "artifacts").all("checkpoint")
    forget(run, ["file:7.txt"], why="the author asked")
    after = make_run(run, everything())
    require_sound(run, [after])
    assert sound(run, Store(run / "artifacts").all("checkpoint")) == [after]
    never_had = [d for d in everything() if d.source not in ("file:7.txt", "file:7-again.txt")]
    never = make_run(tmp_path / "never", never_had)
    assert weights(after) == weights(never)
    assert (after.path / "curve.json").read_bytes() == (never.path / "curve.json").read_bytes()
    assert (after.path / "tokenizer.json").read_bytes() == (never.path / "tokenizer.json").read_bytes()
    assert weights(after) != weights(before)


def test_descendants_are_found_through_any_number_of_generations(tmp_path):
    store = Store(tmp_path)
    chain = []
    for number in range(5):
        parents = {"of": chain[-1].id} if chain else {}
        with store.draft("thing", str(number), parents) as draft:
            (draft.path / "n").write_text(str(number))
        chain.append(draft.artifact)
    assert {a.id for a in descendants(store.all("thing"), [chain[1].id])} == {a.id for a in chain[2:]}
    assert Withdrawn().digest == ""
    assert Path(chain[0].path).is_dir()
