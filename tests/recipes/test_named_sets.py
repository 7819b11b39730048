"""Validation on named sets in a whole run: what is refused before any work, what is then said, what makes it anew."""

import json

import pytest

from preceptor.core.errors import ConfigError
from preceptor.core.interrupt import Stop
from preceptor.recipes import inputs
from preceptor.recipes.curves import draw_curves
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.report import write_report
from preceptor.recipes.run import load_run

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
max_position_embeddings = 64
[pretraining]
context_length = 32
batch_tokens = 128
micro_batch_tokens = 128
duration = "2 steps"
validation_tokens = 128
[finetuning]
context_length = 64
batch_tokens = 64
micro_batch_tokens = 64
duration = "2 steps"
held_out_fraction = 0.4
[evaluation]
num_questions = 2
max_answer_tokens = 2
num_memorisation_documents = 2
[execution]
kind = "in-process"
"""
WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch"]


@pytest.fixture
def pipeline(tmp_path):
    """A run of two sources, trees and stones, with held-out texts and examples beside them."""
    for first, name in enumerate(("trees", "stones")):
        (tmp_path / name).mkdir()
        for number in range(8):
            words = " ".join(f"{word} {place * (number + 3) + first}" for place, word in enumerate(WORDS * 6, number))
            (tmp_path / name / f"{number}.txt").write_text(f"{name.title()} on page {number}: {words}")
    (tmp_path / "held.md").write_text("# Held out\n\n" + " ".join(WORDS * 20))
    lines = [json.dumps({"question": f"which is {n}?", "answer": f"it is {WORDS[n]}"}) for n in range(12)]
    (tmp_path / "asked.jsonl").write_text("\n".join(lines))
    sources = ", ".join(f'{{path="{tmp_path / name}", licence="MIT"}}' for name in ("trees", "stones"))
    (tmp_path / "small.toml").write_text(RECIPE)

    def made(*overrides):
        given = [f"data.sources=[{sources}]", "data.validation_fraction=0.4", 'finetuning.examples=""', *overrides]
        return Pipeline(load_run(str(tmp_path / "small.toml"), given), tmp_path / "out", Stop())

    return made


def one(path, name="held", stage="pretraining"):
    return f'{stage}.validation_sets=[{{name="{name}", path="{path}"}}]'


def test_a_run_tells_the_losses_on_sources_and_sets(pipeline, tmp_path):
    asked = tmp_path / "asked.jsonl"
    made = pipeline(one(tmp_path / "held.md"), one(asked, "asked", "finetuning"), f"finetuning.examples={asked}")
    made.evaluation()
    report = write_report(made)
    losses = report["pretraining"]["validation_losses"]
    assert sorted(losses) == ["held", "stones", "trees"]
    last = report["pretraining"]["curve"][-1]
    assert losses == {name: last[f"validation_loss/{name}"] for name in losses}
    assert list(report["finetuning"]["validation_losses"]) == ["asked"]
    page = (made.out / "report.html").read_text()
    for name, loss in (losses | report["finetuning"]["validation_losses"]).items():
        assert f'<td>{name}</td><td class="n">{loss:.3f}</td>' in page
    metrics = (made.out / "metrics" / f"pretrain-{made.checkpoint().key[:12]}.jsonl").read_text().splitlines()
    assert json.loads(metrics[-1])["validation_loss/trees"] == losses["trees"]


def test_a_set_is_part_of_a_run_by_its_content_only_where_training_stops_by_it(pipeline, tmp_path):
    held = tmp_path / "held.md"
    stopping = 'pretraining.early_stopping={patience=1, metric="validation_loss/held"}'
    seen, stopped = [pipeline(one(held)).checkpoint(), pipeline(one(held), stopping).checkpoint()]
    held.write_text(" ".join(WORDS * 10))
    again = pipeline(one(held))
    assert again.checkpoint().id == seen.id and again.rows[-1].reused
    assert pipeline(one(held), stopping).checkpoint().key != stopped.key


@pytest.mark.parametrize(
    ("settings", "key", "said"),
    [
        ([one("gone.txt")], "pretraining.validation_sets", "gone.txt"),
        ([one("{here}/empty.txt")], "pretraining.validation_sets", "holds no"),
        ([one("{here}/*.nothing")], "pretraining.validation_sets", "holds no"),
        ([one("{here}/broken.jsonl")], "pretraining.validation_sets", "broken.jsonl:2"),
        ([one("{here}/trees/3.txt")], "pretraining.validation_sets", "is trained on"),
        ([one("{here}/held.md", "trees")], "pretraining.validation_sets", "what a source of the data is called"),
        (['pretraining.early_stopping.metric="validation_loss/held"'], "pretraining.early_stopping.metric", "trees"),
        (['finetuning.early_stopping.metric="validation_loss/trees"'], "finetuning.early_stopping.metric", "accuracy"),
        (
            ["finetuning.examples={here}/asked.jsonl", one("{here}/held.md", stage="finetuning")],
            "finetuning.validation_sets",
            "held.md",
        ),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is_read(pipeline, tmp_path, monkeypatch, settings, key, said):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "broken.jsonl").write_text('{"text": "a text that is whole"}\n{"text": ')

    def read(*asked):
        raise AssertionError("something was read")

    monkeypatch.setattr(inputs, "of_corpus", read)
    with pytest.raises(ConfigError) as caught:
        pipeline(*(each.replace("{here}", str(tmp_path)) for each in settings)).corpus()
    assert caught.value.path == key and caught.value.exit_code == 2 and caught.value.remedy
    assert said in str(caught.value)


def test_a_broken_record_is_left_out_where_the_data_leave_such_out(pipeline, tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps({"text": " ".join(WORDS * 20)}) + '\n{"text": \n')
    made = pipeline(one(path), 'data.on_bad_input="reject"')
    assert made.checkpoint().facts["validation_losses"]["held"] > 0


def test_curves_have_a_line_for_each_set_and_names_for_the_first():
    plain = {"loss": 2.0, "learning_rate": 0.1, "grad_norm": 1.0}
    losses = {f"validation_loss/set-{number}": 2.0 + number for number in range(10)}
    curve = [{"step": 1, **plain}, {"step": 2, **plain, "validation_loss": 2.0, **losses}]
    axes = draw_curves(curve, "Pre-training").axes[0]
    assert len(axes.lines) == 2 + 10
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["training", "validation", *(f"set-{number}" for number in range(8))]
