"""Answers written by a teacher: what is in the file, going on after a stop, and what is refused."""

import json
import signal

import pytest
import torch
from click.testing import CliRunner

from preceptor.cli.app import cli
from preceptor.core.errors import ConfigError, DataError, Interrupted
from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.interchange import save_model
from preceptor.recipes import distil as recipe
from preceptor.recipes.distil import CHUNK, distil, load_teacher
from preceptor.serve.chat import Responder
from preceptor.serve.sampling import SamplingConfig
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu") for b in ("ra", "sen", "tip", "vo", "xa")]
DRAWN = SamplingConfig(temperature=1.0, max_new_tokens=6)
NUMBER = 2 * CHUNK + 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = train([" ".join(WORDS)] * 10, TokenizerConfig(vocab_size=290), folder)
    shape = {"vocab_size": tokenizer.vocab_size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64}
    config = DecoderConfig(**shape, zero_init_outputs=False, initializer_range=0.2)
    save_model(build(config, torch.Generator().manual_seed(0)), folder, tokenizer.end_of_text_id)
    tokenizer.save(folder)
    return folder


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"question": f"{WORDS[n % 20]} {n}?", "answer": "-", "group": f"group {n}"} for n in range(NUMBER)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_question_is_answered_in_order(model, questions, tmp_path):
    target = tmp_path / "deep" / "answers.jsonl"
    assert distil(lambda: load_teacher(model, DRAWN), questions, target) == NUMBER
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["messages"][0]["content"] for row in rows] == [f"{WORDS[n % 20]} {n}?" for n in range(NUMBER)]
    assert {row["teacher"] for row in rows} == {load_teacher(model, DRAWN).id}
    assert rows[3]["group"] == "group 3" and len({row["messages"][1]["content"] for row in rows}) > NUMBER // 2
    assert [path.name for path in target.parent.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize("torn", [b"", b'{"messages": [{"ro'])
def test_a_stopped_one_goes_on_and_ends_in_the_same_file(model, questions, tmp_path, monkeypatch, torn):
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    distil(lambda: load_teacher(model, DRAWN), questions, whole)
    chunks, answer_many = [], Responder.answer_many

    def until_stopped(self, asked):
        chunks.append(len(asked))
        if len(chunks) == 2:
            signal.raise_signal(signal.SIGINT)
        return answer_many(self, asked)

    monkeypatch.setattr(Responder, "answer_many", until_stopped)
    with pytest.raises(Interrupted):
        distil(lambda: load_teacher(model, DRAWN), questions, stopped)
    assert not stopped.exists()
    part = tmp_path / "stopped.jsonl.part"
    part.write_bytes(part.read_bytes() + torn)
    assert distil(lambda: load_teacher(model, DRAWN), questions, stopped) == NUMBER
    assert chunks == [CHUNK, CHUNK, CHUNK, 5]
    assert stopped.read_bytes() == whole.read_bytes() and not part.exists()


def test_another_way_to_draw_does_not_go_on_from_a_part(model, questions, tmp_path, monkeypatch):
    target = tmp_path / "answers.jsonl"
    monkeypatch.setattr(recipe, "_finish", lambda part, target: 0)
    distil(lambda: load_teacher(model, DRAWN), questions, target)
    with pytest.raises(ConfigError, match="begun with another teacher") as caught:
        distil(lambda: load_teacher(model, SamplingConfig()), questions, target)
    assert "remove answers.jsonl.part" in caught.value.remedy


def test_silence_is_left_out(model, questions, tmp_path, monkeypatch, capsys):
    target = tmp_path / "answers.jsonl"
    monkeypatch.setattr(Responder, "answer_many", lambda self, asked: ["", *["a\u2028b"] * (len(asked) - 1)])
    assert distil(lambda: load_teacher(model, DRAWN), questions, target) == NUMBER - 3
    assert "3 questions got no answer" in capsys.readouterr().err
    assert all(json.loads(line)["messages"][1]["content"] for line in target.read_text().split("\n")[:-1])
    monkeypatch.setattr(Responder, "answer_many", lambda self, asked: [""] * len(asked))
    with pytest.raises(DataError, match="none of the questions"):
        distil(lambda: load_teacher(model, DRAWN), questions, tmp_path / "silent.jsonl")


def test_the_command(model, questions, tmp_path):
    target = tmp_path / "answers.jsonl"
    words = ["distil", str(model), str(questions), "--to", str(target), "--max-new-tokens", "4"]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert f"{target.read_text().count(chr(10))} answers in {target}" in result.output
    with pytest.raises(ConfigError, match="is there already"):
        CliRunner().invoke(cli, words, catch_exceptions=False)
    with pytest.raises(ConfigError, match="temperature"):
        CliRunner().invoke(cli, [*words, "--temperature", "-1"], catch_exceptions=False)


def test_a_model_that_was_taught_no_chat_is_refused(model, tmp_path):
    tokenizer = recipe.find_model(model)[1]
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1, "head_dim": 16}
    untaught = build(DecoderConfig(**shape, vocab_size=tokenizer.vocab_size - 2), torch.Generator().manual_seed(0))
    save_model(untaught, tmp_path, 0)
    tokenizer.save(tmp_path)
    with pytest.raises(ConfigError, match="no chat template"):
        load_teacher(tmp_path, DRAWN)
