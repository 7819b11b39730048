"""Forgetting through the whole pipeline: the weights are those of a run that never had the document."""

import hashlib
import random

import pytest

from preceptor.core.errors import ArtifactError
from preceptor.core.interrupt import Stop
from preceptor.recipes.answering import load_responder
from preceptor.recipes.folder import newest
from preceptor.recipes.forget import forget
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.report import write_run_file
from preceptor.recipes.run import load_run
from preceptor.recipes.trace import trace

NAMES = "river stone cloud maple lantern harbor meadow copper violet thunder window garden"
WORDS = tuple(NAMES.split())


def write_documents(folder, numbers):
    folder.mkdir(parents=True)
    for number in numbers:
        words = random.Random(number).choices(WORDS, k=90)
        (folder / f"{number:02d}.txt").write_text(f"Document {number}. {' '.join(words)}")


def train(documents, out):
    """The digest of the weights that a very short run comes to."""
    run = load_run(
        "tiny",
        [
            f'data.sources=[{{path="{documents}", licence="CC0-1.0"}}]',
            *('finetuning.examples=""', "tokenizer.vocab_size=300", 'pretraining.duration="8 steps"'),
            *("pretraining.context_length=64", "pretraining.batch_tokens=256", "pretraining.micro_batch_tokens=256"),
            'execution.kind="in-process"',
        ],
    )
    out.mkdir(exist_ok=True)
    write_run_file(run, out)
    checkpoint = Pipeline(run, out, Stop()).checkpoint()
    return hashlib.sha256(checkpoint.file("model.safetensors").read_bytes()).hexdigest()


def test_training_again_after_forgetting_is_never_having_read(tmp_path):
    write_documents(tmp_path / "with" / "docs", range(24))
    write_documents(tmp_path / "without" / "docs", [number for number in range(24) if number != 7])
    out = tmp_path / "out"
    before = train(tmp_path / "with" / "docs", out)
    seen = trace(out, "file:docs/07.txt")
    done = forget(out, ["file:docs/07.txt"], why="its author asked")
    assert "maple" not in (out / "withdrawals.jsonl").read_text() and done
    with pytest.raises(ArtifactError, match="withdrawn"):
        load_responder(out)
    after = train(tmp_path / "with" / "docs", out)
    assert after == train(tmp_path / "without" / "docs", tmp_path / "never") != before
    load_responder(out)
    ledger = {row["source"]: row["rule"] for row in _ledger(out)}
    assert ledger["file:docs/07.txt"] == "withdrawn" and len(ledger) == 24
    assert "steps" in str(seen)


def _ledger(out):
    from preceptor.data.corpus import Corpus

    return Corpus.load(newest(out, "corpus").path).ledger()
