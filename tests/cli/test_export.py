"""`preceptor export` from the shell's side."""

import json
import sys

import pytest
import torch

from preceptor import cli
from preceptor.core.artifact import Store
from preceptor.models.decoder import Decoder
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.interchange import save_model
from preceptor.recipes.report import write_run_file
from preceptor.recipes.run import load_run
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train


def call(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["preceptor", *words])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    return leaving.value.code


@pytest.fixture
def out(tmp_path):
    """The folder of a run with a base model that nobody has trained."""
    out = tmp_path / "run"
    out.mkdir()
    write_run_file(load_run("tiny"), out)
    torch.manual_seed(2)
    with Store(out / "artifacts").draft("checkpoint", "1" * 64, {}) as draft:
        tokenizer = train(["a tale of two cities " * 20], TokenizerConfig(vocab_size=265), draft.path)
        model = Decoder(DecoderConfig(vocab_size=265, hidden_size=32, intermediate_size=64, num_hidden_layers=1))
        save_model(model, draft.path, tokenizer.end_of_text_id)
    return out


def test_an_export_says_what_it_wrote_and_how_near_it_is(monkeypatch, capsys, out, tmp_path):
    words = ("export", "--out", str(out), "--to", str(tmp_path / "to"), "--as", "gguf", "--bits", "8")
    assert call(monkeypatch, *words) == 0
    said = capsys.readouterr().out
    facts = json.loads((tmp_path / "to" / "export.json").read_text())
    assert (facts["as"], facts["bits"], facts["adapter"], facts["numbers"]) == ("gguf", 8, None, "GGUF Q8_0")
    assert all(name in said for name in facts["files"]) and "100 % of greedy answers the same" in said
    assert call(monkeypatch, *words) == 1
    assert "--force" in capsys.readouterr().err
    assert call(monkeypatch, *words, "--force") == 0


def test_what_cannot_be_exported_is_one_message(monkeypatch, capsys, out, tmp_path):
    words = ("export", "--out", str(out), "--to", str(tmp_path / "to"))
    assert call(monkeypatch, *words, "--as", "adapter") == 1
    assert "holds no adapter" in capsys.readouterr().err
    assert call(monkeypatch, *words, "--as", "adapter", "--bits", "8") == 2
    assert call(monkeypatch, *words, "--bits", "3") == 2
    assert not (tmp_path / "to").exists()


def test_the_help_says_which_formats_bits_stand_for(monkeypatch, capsys):
    assert call(monkeypatch, "export", "--help") == 0
    said = capsys.readouterr().out
    assert all(
        word in said for word in ("bfloat16", "nf4", "int8", "Q8_0", "Q4_0", "F16", "preceptor[quant]", "--force")
    )
