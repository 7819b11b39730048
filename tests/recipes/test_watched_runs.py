"""What a run leaves for people to look at, and that looking changes nothing."""

import json

import pytest

from preceptor.core.errors import ConfigError, OutputError
from preceptor.core.interrupt import Stop
from preceptor.recipes import curves
from preceptor.recipes.curves import draw_curves, smoothed, thinned
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.report import write_report
from preceptor.recipes.run import load_run
from preceptor.recipes.stage_notes import read_notes, write_notes

RECIPE = """
[tokenizer]
vocab_size = 300
[model]
hidden_size = 16
intermediate_size = 24
num_hidden_layers = 1
num_attention_heads = 1
num_key_value_heads = 1
head_dim = 16
max_position_embeddings = 32
[pretraining]
context_length = 32
batch_tokens = 128
micro_batch_tokens = 128
duration = "3 steps"
validation_tokens = 128
[finetuning]
examples = ""
[evaluation]
num_memorisation_documents = 2
[execution]
kind = "in-process"
"""


@pytest.fixture
def pipeline(tmp_path, documents):
    (tmp_path / "small.toml").write_text(RECIPE)

    def made(*overrides):
        run = load_run(str(tmp_path / "small.toml"), [documents, *overrides])
        return Pipeline(run, tmp_path / "out", Stop())

    return made


def test_who_is_told_of_a_run_is_no_part_of_what_it_is(pipeline):
    first = pipeline()
    made = first.checkpoint()
    again = pipeline("pretraining.tracking.loggers=[]", "finetuning.tracking.project=mine")
    assert again.checkpoint().id == made.id and again.rows[-1].reused
    assert "tracking" not in made.notes["settings"]["pretraining"]


def test_a_logger_that_is_not_installed_is_told_before_any_work(pipeline):
    for stage in ("pretraining", "finetuning"):
        made = pipeline(f'{stage}.tracking.loggers=["mlflow"]')
        with pytest.raises(ConfigError, match=rf"{stage}\.tracking\.loggers names 'mlflow'") as refused:
            made.corpus()
        assert "pip install mlflow" in refused.value.remedy
        assert not made.rows


def test_a_run_leaves_metrics_events_curves_and_what_it_is_made_of(pipeline, monkeypatch):
    made = pipeline()
    made.evaluation()
    out, checkpoint = made.out, made.checkpoint()
    name = f"pretrain-{checkpoint.key[:12]}"
    lines = [json.loads(line) for line in (out / "metrics" / f"{name}.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {"tokens_per_second", "share_of_peak", "memory_bytes", "seconds", "at"} <= lines[0].keys()
    assert len(list((out / "metrics" / "tensorboard" / name).iterdir())) == 1
    assert (out / "plots" / "pretrain.png").read_bytes().startswith(b"\x89PNG")
    svg = (out / "plots" / "pretrain.svg").read_text()
    assert checkpoint.id in svg and not (out / "plots" / "finetune.svg").exists()
    notes = json.loads((out / "stages.json").read_text())["stages"]
    assert notes["pretrain"] == {"key": checkpoint.key, "artifact": checkpoint.id}
    assert list(notes) == ["data", "tokenizer", "tokens", "pretrain", "evaluate"]

    def drawn_twice(*given):
        raise AssertionError("the same curves are drawn a second time")

    monkeypatch.setattr(curves, "draw_curves", drawn_twice)
    write_report(made)
    assert svg[svg.index("<svg") :] in (out / "report.html").read_text()


def test_curves_of_other_settings_are_drawn_anew(pipeline):
    made = pipeline()
    first = made.checkpoint()
    other = pipeline("pretraining.duration=2 steps").checkpoint()
    svg = made.out / "plots" / "pretrain.svg"
    assert other.id in svg.read_text()
    curves.keep_curves(made.out, "pretrain", first)
    assert first.id in svg.read_text() and other.id not in svg.read_text()


def test_a_plot_that_cannot_be_written_does_not_cost_the_model(pipeline, monkeypatch, capsys):
    def full(*given):
        raise OutputError("no space left", remedy="free some")

    monkeypatch.setattr(curves, "write_file", full)
    assert pipeline().checkpoint().facts["num_steps"] == 3
    assert "warning: no space left" in capsys.readouterr().err


def test_the_stages_are_those_of_the_run_that_is_asked_for(tmp_path):
    write_notes(tmp_path, {"seed": 1}, {})
    assert read_notes(tmp_path, {"seed": 1}) == {}
    (tmp_path / "stages.json").write_text('{"run": 3')
    assert read_notes(tmp_path, {"seed": 1}) == {}
    assert read_notes(tmp_path / "nowhere", {}) == {}


def test_long_curves_are_smoothed_and_gaps_count_for_nothing():
    assert smoothed([3.0] * 200) == pytest.approx([3.0] * 200)
    shown = smoothed([1.0, float("nan"), 1.0] * 40)
    assert shown == pytest.approx([1.0] * 120)
    assert smoothed([2.0 * n for n in range(401)])[200] == pytest.approx(400)
    curve = [{"step": n, "loss": 9 - n / 50, "learning_rate": 0.1, "grad_norm": 1.0} for n in range(1, 200)]
    loss, rate, norm = draw_curves(curve, "Pre-training").axes
    assert [len(axes.lines) for axes in (loss, rate, norm)] == [2, 1, 2]
    assert thinned(0) == [] and thinned(3) == [0, 1, 2]
    assert len(thinned(100_000)) <= 2001 and thinned(100_000)[-1] == 99_999
    assert loss.get_title(loc="left") == "Pre-training: loss, nats per token"
