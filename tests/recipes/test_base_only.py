"""Runs that only fine-tune a base: what the other commands say of a folder without documents."""

import json

import pytest
import yaml

from preceptor.core.artifact import Store
from preceptor.core.errors import ConfigError
from preceptor.core.interrupt import Stop
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder import build as build_encoder
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.interchange import save_model
from preceptor.recipes.compare import compare
from preceptor.recipes.distil import teacher_of
from preceptor.recipes.export import export
from preceptor.recipes.export_source import find_source
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.report import write_run_file
from preceptor.recipes.run import load_run
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.tokenizer.training import train

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch"]
SMALL = [
    *("finetuning.context_length=32", "finetuning.batch_tokens=64", "finetuning.micro_batch_tokens=64"),
    *("finetuning.duration=2 steps", "finetuning.validation_tokens=64", "finetuning.held_out_fraction=0.3"),
    *('footprint.method="clock"', "finetuning.schedule.warmup_steps=1"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a small decoder."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train([" ".join(WORDS)] * 10, TokenizerConfig(vocab_size=290), folder)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64}
    save_model(build(DecoderConfig(**shape, vocab_size=tokenizer.vocab_size)), folder, tokenizer.end_of_text_id)
    return folder


def pipeline(base, out, rows, *overrides):
    out.mkdir(parents=True, exist_ok=True)
    examples = out / "examples.jsonl"
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = load_run("adapt", [f"base.model={base}", f"finetuning.examples={examples}", *SMALL, *overrides])
    write_run_file(run, out)
    return Pipeline(run, out, Stop())


def classes():
    return [{"text": f"{WORDS[n % 12]} {n}", "label": ("good", "bad")[n % 2]} for n in range(40)]


@pytest.fixture(scope="module")
def out(base, tmp_path_factory):
    """The folder of a run that has taught the decoder to classify."""
    folder = tmp_path_factory.mktemp("runs") / "out"
    pipeline(base, folder, classes()).evaluation()
    return folder


def test_comparing_tells_the_scores_of_the_task_and_counts_the_base(base, out, tmp_path):
    other = tmp_path / "other"
    pipeline(base, other, classes(), "seed=3").checkpoint()
    results = compare([out, other]).results
    scores = json.loads(Store(out / "artifacts").all("evaluation")[0].file("evaluation.json").read_text())["task"]
    for score in scores["scores"]:
        assert results[f"evaluation.{score['name']}"] == [score["value"], None]
    assert results["total.seconds"][1] > 0


def test_an_adapter_of_a_model_of_the_hub_names_it(out, tmp_path):
    path = out / "run.json"
    before = path.read_text()
    table = json.loads(before)
    table["run"]["base"]["model"] = "hub:someone/something"
    path.write_text(json.dumps(table))
    try:
        export(out, tmp_path / "to", form="adapter")
    finally:
        path.write_text(before)
    assert json.loads((tmp_path / "to" / "adapter_config.json").read_text())["base_model_name_or_path"] == (
        "someone/something"
    )
    card = (tmp_path / "to" / "README.md").read_text()
    assert "BASE is the model someone/something" in card and "which peft does not read" in card


def test_the_card_tells_how_well_the_task_is_done_and_not_of_the_base_alone(out, tmp_path):
    export(out, tmp_path / "to")
    card = (tmp_path / "to" / "README.md").read_text()
    task = find_source(out).scores()["task"]
    front = yaml.safe_load(card.split("---\n")[1])
    for score in task["scores"]:
        assert f"{score['value']:.4g} | {score['low']:.4g} to {score['high']:.4g}" in card
        assert score["name"] in front["metrics"]
        assert all(f"| {score['name']} | {name} | " in card for name in score["baselines"])
    export(out, tmp_path / "base", with_adapter=False)
    assert "## How good it is\n\nNot measured." in (tmp_path / "base" / "README.md").read_text()


def test_a_held_out_file_is_of_the_task_that_is_trained(base, tmp_path):
    rows = [{"text": f"{WORDS[n % 12]} {n}", "label": 2 * n} for n in range(60)]
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps({"text": f"late {n}", "label": n}) + "\n" for n in range(6)))
    learned, held_out = pipeline(base, tmp_path / "out", rows, f"finetuning.held_out={few}").examples()
    assert (learned.task, held_out.task, len(held_out.examples)) == ("regress", "regress", 6)


def test_a_prompt_and_a_teacher_exclude_each_other(base, tmp_path):
    rows = [{"question": f"{WORDS[n % 12]} {n}?", "answer": WORDS[n % 5]} for n in range(30)]
    prompt = ("finetuning.adapter.kind=prompt", "finetuning.adapter.num_virtual_tokens=2")
    with pytest.raises(ConfigError, match="a teacher cannot read the prompt"):
        pipeline(base, tmp_path / "never", rows, *prompt, "finetuning.distil.teacher=theirs")
    taught = tmp_path / "taught"
    pipeline(base, taught, rows, *prompt).adapter()
    with pytest.raises(ConfigError, match="was taught by a prompt") as caught:
        teacher_of(taught)
    assert "preceptor distil" in caught.value.remedy


def test_an_encoder_without_an_output_layer_is_exported_with_what_it_has_learned(base, tmp_path):
    folder = tmp_path / "encoder"
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = Tokenizer.load(base)
    config = EncoderConfig(**shape, vocab_size=tokenizer.vocab_size, max_position_embeddings=64, lm_head=False)
    folder.mkdir()
    save_model(build_encoder(config), folder, tokenizer.end_of_text_id)
    tokenizer.save(folder)
    rows = [{"text": f"{word} {WORDS[n % 5]} {n}", "label": "ab"[n % 2]} for n, word in enumerate(WORDS * 3)]
    pipeline(folder, tmp_path / "out", rows).evaluation()
    export(tmp_path / "out", tmp_path / "exported")
    assert (tmp_path / "exported" / "heads.safetensors").is_file()
