"""The commands that look into a model, as a user types them."""

import json
import sys

import pytest
import torch

from preceptor import cli
from preceptor.evaluate.inspection import LayerNorms, Norms
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.interchange import save_model
from preceptor.recipes.model_plots import draw_norms
from preceptor.recipes.report import write_run_file
from preceptor.recipes.run import load_run
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train

TEXT = "The cat sat on the mat, and the dog sat there too; it costs $1 or $2."
PNG, SVG = b"\x89PNG\r\n", b"<?xml"


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["preceptor", "model", *map(str, words)])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    return leaving.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train([TEXT] * 4, TokenizerConfig(vocab_size=280), folder)
    tokenizer.save(folder)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    config = DecoderConfig(vocab_size=tokenizer.vocab_size, **shape, zero_init_outputs=False)
    save_model(build(config, torch.Generator().manual_seed(1)), folder, tokenizer.end_of_text_id)
    return folder


def test_the_largest_named_size_is_counted_without_its_weights(monkeypatch, capsys):
    assert call(monkeypatch, "describe", "GPT3-175B", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["parameters"] == 174_604_259_328 and said["memory"]["weights_bfloat16"] == 2 * 174_604_259_328
    assert {row["count"] for row in said["tensors"] if "layers" in row["name"]} == {96}
    # 2 x 96 layers x 12,288 x 2 bytes for a token; Brown et al. 2020, table 2.1, for the shape
    assert said["memory"]["cache_per_token_bfloat16"] == 4_718_592


@pytest.mark.parametrize("columns", ["40", "120"])
def test_the_table_stays_within_the_terminal(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert call(monkeypatch, "describe", "gpt2") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= int(columns) and "124,439,808" in out
    assert ("x 12" in out) and (columns == "40" or "model.layers.*.self_attn.q_proj.weight" in out)


def test_a_recipe_has_the_vocabulary_of_its_tokenizer(monkeypatch, capsys, tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "tiny"\n[model]\nnum_hidden_layers = 5\n')
    for words, size, layers in (
        (["tiny"], 1024, 2),
        ([tmp_path / "mine.toml"], 1024, 5),
        (["tiny", "--vocab-size", 77], 77, 2),
    ):
        assert call(monkeypatch, "describe", *words, "--json") == 0
        config = json.loads(capsys.readouterr().out)["config"]
        assert (config["vocab_size"], config["num_hidden_layers"]) == (size, layers)


def test_a_folder_needs_its_configuration_alone(monkeypatch, capsys, folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert call(monkeypatch, "describe", tmp_path, "--json", "--context-length", 7) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["context_length"] == 7 and said["config"]["hidden_size"] == 32 and said["model_type"] == "qwen3"


def test_a_run_that_has_trained_nothing_yet_is_described_by_its_recipe(monkeypatch, capsys, tmp_path):
    write_run_file(load_run("tiny"), tmp_path)
    assert call(monkeypatch, "describe", tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["config"]["hidden_size"] == 64


@pytest.mark.parametrize(
    "what, code, words", [("gpt3-174b", 2, "gpt3-175b"), ("tinny", 2, "tiny"), (".", 1, "holds no")]
)
def test_what_is_unknown_is_told_with_the_nearest(monkeypatch, capsys, tmp_path, what, code, words):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "describe", what) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("text", ["not json", "[1]", '{"model_type": "elephant"}'])
def test_a_broken_configuration_is_told(monkeypatch, capsys, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert call(monkeypatch, "describe", tmp_path) == 1
    assert "config.json" in capsys.readouterr().err


def test_attention_is_drawn(monkeypatch, capsys, folder, tmp_path):
    png, svg = tmp_path / "maps.png", tmp_path / "maps.SVG"
    assert call(monkeypatch, "attention", folder, TEXT + " \N{CJK UNIFIED IDEOGRAPH-4E00}", "--out", png) == 0
    assert "2 maps" in capsys.readouterr().out and png.read_bytes().startswith(PNG)
    words = ("--layer", 1, "--head", 0, "--head", 2, "--out", svg)
    assert call(monkeypatch, "attention", folder, TEXT, *words) == 0
    drawn = svg.read_bytes()
    assert drawn.startswith(SVG) and b"head 2" in drawn and b"head 1" not in drawn and b"layers.0" not in drawn
    assert "·costs".encode() in drawn or "·c".encode() in drawn
    assert call(monkeypatch, "attention", folder, TEXT, "--all-heads", "--out", png) == 0
    assert "8 maps" in capsys.readouterr().out


def test_norms_are_drawn_and_said(monkeypatch, capsys, folder, tmp_path):
    picture = tmp_path / "norms.svg"
    assert call(monkeypatch, "norms", folder, TEXT, "--out", picture) == 0
    out = capsys.readouterr().out
    drawn = picture.read_text()
    assert "model.layers.1" in out and "no part vanishes" in out and drawn.startswith(SVG.decode())
    assert "norm of the gradients" in drawn and "mathdefault" not in drawn
    assert call(monkeypatch, "norms", folder, TEXT, "--out", picture, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["layers"]) == 3 and said["loss"] > 0


@pytest.mark.parametrize("values", [(1.0, 2.0, 3.0), (1e-6, 1.0, 1e5), (0.0, 0.0, 0.0), (1.0, float("inf"), 2.0)])
def test_norms_of_any_size_are_drawn_with_plain_numbers(tmp_path, values):
    layers = tuple(LayerNorms(f"layers.{number}", value, value, value) for number, value in enumerate(values))
    draw_norms(Norms(1.0, "each next token", layers), tmp_path / "norms.svg")
    drawn = (tmp_path / "norms.svg").read_text()
    assert "layers.2" in drawn and "mathdefault" not in drawn and "$" not in drawn


@pytest.mark.parametrize(
    "words, told",
    [
        (("--out", "maps.pdf"), "PNG or SVG"),
        (("--out", "maps"), "PNG or SVG"),
        (("--layer", "9", "--out", "maps.png"), "no layer 9"),
        (("--head", "4", "--out", "maps.png"), "no head 4"),
        (("--head", "1", "--all-heads", "--out", "maps.png"), "exclude"),
    ],
)
def test_what_cannot_be_drawn_is_told(monkeypatch, capsys, folder, tmp_path, words, told):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "attention", folder, TEXT, *words) == 2
    assert told in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_folder_without_a_model_is_told(monkeypatch, capsys, tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        assert call(monkeypatch, "norms", place, TEXT, "--out", tmp_path / "norms.png") == 1
        assert capsys.readouterr().err.startswith("error:")
