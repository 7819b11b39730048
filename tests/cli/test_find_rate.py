"""`preceptor find-rate`: three files and nothing else, from the weights a run starts with."""

import json
import signal
import sys

import pytest

from preceptor import cli
from preceptor.core.errors import Interrupted
from preceptor.train import rate_finder

SMALL = (
    *("tokenizer.vocab_size=300", "model.hidden_size=16", "model.intermediate_size=24", "model.num_hidden_layers=1"),
    *("model.num_attention_heads=2", "model.num_key_value_heads=1", "model.head_dim=8"),
    *("pretraining.context_length=32", "pretraining.batch_tokens=128", "pretraining.micro_batch_tokens=128"),
    *("pretraining.duration=2 steps", "pretraining.validation_tokens=64"),
    *("finetuning.context_length=64", "finetuning.batch_tokens=128", "finetuning.micro_batch_tokens=128"),
)
WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch"]


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["preceptor", *words])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    return leaving.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("find-rate")
    (folder / "docs").mkdir()
    for number in range(20):
        words = (f"{word} {place * (number + 3)}" for place, word in enumerate(WORDS * 6, number))
        (folder / "docs" / f"{number}.txt").write_text(f"Page {number}: " + " ".join(words))
    examples = [{"instruction": f"What is {word}?", "output": f"{word} is a word."} for word in WORDS]
    (folder / "examples.json").write_text(json.dumps(examples))
    return folder


def words(folder, *more):
    data = f'data.sources=[{{path="{folder / "docs"}", licence="MIT"}}]'
    return (data, *SMALL, f"finetuning.examples={folder / 'examples.json'}", *more)


@pytest.mark.parametrize(("stage", "optimizer"), [("pretrain", "muon"), ("finetune", "adamw")])
def test_it_leaves_a_plot_and_its_numbers_and_says_what_to_set(monkeypatch, capsys, folder, tmp_path, stage, optimizer):
    out = tmp_path / "run"
    # A teacher is not even looked for.
    asked = ("find-rate", *words(folder, "finetuning.distil.teacher=nowhere"), "--out", str(out), "--stage", stage)
    asked += ("--steps", "12", "--from", "1e-3")
    assert call(monkeypatch, *asked, "--to", "1") == 0
    said = capsys.readouterr().out
    table = json.loads((out / "plots" / "find-rate.json").read_text())
    assert table["stage"] == stage and table["optimizer"] == optimizer
    assert len(table["rates"]) == len(table["losses"]) == len(table["smoothed"]) <= 12
    assert table["rates"][0] == pytest.approx(1e-3)
    setting = f"{'pretraining' if stage == 'pretrain' else 'finetuning'}.optimizer.learning_rate="
    assert f"  {setting}{table['steepest']:.2g}\n" in said
    assert ("warning: the teacher was left out" in said) == (stage == "finetune")
    assert ("adamw_learning_rate" in said) == (optimizer == "muon")
    assert (out / "plots" / "find-rate.png").read_bytes().startswith(b"\x89PNG")
    picture = (out / "plots" / "find-rate.svg").read_text()
    assert picture.startswith("<?xml") and f"steepest: {table['steepest']:.2g}" in picture
    # The base of fine-tuning is a stage like any other, with curves of its own.
    curves = ["pretrain.png", "pretrain.svg"] if stage == "finetune" else []
    made = [f"find-rate.{kind}" for kind in ("json", "png", "svg")]
    assert sorted(path.name for path in (out / "plots").iterdir()) == made + curves
    kinds = {path.name for path in (out / "artifacts").iterdir() if any(path.iterdir())}
    assert kinds == {"corpus", "tokenizer", "tokens"} | ({"checkpoint"} if stage == "finetune" else set())
    if stage == "pretrain":
        assert not any((out / name).exists() for name in ("run.json", "metrics", "checkpoints"))


def test_a_run_is_not_described_anew_by_a_trial(monkeypatch, capsys, folder, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    asked = ("find-rate", *words(folder), "--out", str(tmp_path), "--steps", "6", "--from", "1e-3", "--to", "1e-2")
    assert call(monkeypatch, *asked) == 0
    assert (tmp_path / "run.json").read_text() == "{}"
    assert "raise --to" in capsys.readouterr().out


def test_ctrl_c_leaves_nothing_half_written(monkeypatch, capsys, folder, tmp_path):
    def interrupted(*parts, **more):
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(rate_finder, "range_test", interrupted)
    assert call(monkeypatch, "find-rate", *words(folder), "--out", str(tmp_path)) == 128 + signal.SIGINT
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--from", "1", "--to", "0.1"), "--to is the larger"),
        (("--steps", "2"), "at least 5 steps"),
        (("--stage", "finetune", "finetuning.examples="), "nothing to fine-tune on"),
    ],
)
def test_what_cannot_be_tested_is_refused_with_what_to_do(monkeypatch, capsys, folder, tmp_path, more, said):
    assert call(monkeypatch, "find-rate", *words(folder), *more, "--out", str(tmp_path)) == 2
    assert said in capsys.readouterr().err


def test_its_help_says_how_to_read_it(monkeypatch, capsys):
    assert call(monkeypatch, "find-rate", "--help") == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("steepest", "a tenth of minimum", "--stage", "Examples", "1e-6", "Smith"))
