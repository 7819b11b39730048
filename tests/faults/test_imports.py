"""Row 29: documents and a base model that are being taken in when the process is killed. No half of them is visible."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from evidence import drafts

from preceptor.core.artifact import load
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.interchange import save_model
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train

CALLS = ["write", "fsync", "mkdir", "rename"]
TEXTS = [" ".join(f"word{number * place % 97} of page {number}" for place in range(60)) for number in range(12)]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Overrides of the recipe: a folder of documents, and the folder of a model."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "docs").mkdir()
    for number, text in enumerate(TEXTS):
        (folder / "docs" / f"{number}.txt").write_text(text)
    (folder / "model").mkdir()
    tokenizer = train(TEXTS, TokenizerConfig(vocab_size=300), folder / "model")
    config = DecoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
    )
    save_model(build(config, torch.Generator().manual_seed(0)), folder / "model", tokenizer.end_of_text_id)
    (folder / "recipe.toml").write_text("[base]\n")
    documents = f'data.sources=[{{path="{folder}/docs", licence="MIT"}}]'
    return {"corpus": [documents], "base": [documents, f"base.model={folder}/model"], "recipe": folder / "recipe.toml"}


def artifacts(run: Path, kind: str) -> list[str]:
    """The ids of what can be seen of a kind, all of which must verify."""
    folder = run / "artifacts" / kind
    seen = [path for path in folder.glob("*") if path not in drafts(folder)]
    return [load(path, kind).id for path in seen]


@pytest.mark.usefixtures("can_strace")
@pytest.mark.parametrize("stage", [pytest.param("corpus", marks=pytest.mark.faults), "base"])
def test_row_29_killed_while_it_is_taken_in_no_half_is_visible_and_the_next_try_is_whole(
    nursery, given, tmp_path, stage
):
    sweep(nursery, given, tmp_path, stage, ["fsync", "rename"], lambda count: {count // 2, count})


@pytest.mark.faults
@pytest.mark.usefixtures("can_strace")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("stage", ["corpus", "base"])
def test_row_29_killed_all_along_while_it_is_taken_in(nursery, given, tmp_path, stage):
    sweep(nursery, given, tmp_path, stage, CALLS, lambda count: {1 + place * (count - 1) // 5 for place in range(6)})


def sweep(nursery, given, tmp_path, stage, calls, chosen):
    """Kill at chosen calls, one after the other, and look each time at what is visible and at a second try."""
    arguments = {"stage": stage, "overrides": given[stage], "recipe": str(given["recipe"])}
    alone, notes = tmp_path / "alone", tmp_path / "notes"
    code, said = nursery.run_traced(alone, notes, f"trace={','.join(calls)}", **arguments)
    assert code == 0, said
    (expected,) = artifacts(alone, stage)
    log = (notes / "calls").read_text()
    killed = 0
    for call in calls:
        for number in sorted(chosen(log.count(f" {call}("))):
            run = tmp_path / f"{call}-{number}"
            rules = (f"trace={call}", f"inject={call}:signal=KILL:when={number}")
            code, _ = nursery.run_traced(run, notes, *rules, **arguments)
            assert code in (-signal.SIGKILL, 0)
            killed += code != 0
            assert artifacts(run, stage) in ([], [expected])
            code, said = nursery.run(run, notes, **arguments)
            assert code == 0, said
            assert artifacts(run, stage) == [expected] and drafts(run / "artifacts") == []
            shutil.rmtree(run)
    assert killed >= 3
