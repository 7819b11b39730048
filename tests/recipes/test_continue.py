"""Continued pre-training by the recipe that ships: bases of several architectures learn documents, then to answer."""

import json

import pytest
import tokenizers
import torch

from preceptor.adapters.attach import load_adapter
from preceptor.core.errors import ConfigError
from preceptor.core.interrupt import Stop
from preceptor.models.interchange import architecture_of, load_model
from preceptor.recipes.answering import load_responder
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.run import load_run

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch"]
SMALL = [
    *("pretraining.context_length=32", "pretraining.batch_tokens=128", "pretraining.micro_batch_tokens=64"),
    *("pretraining.validation_tokens=128", "pretraining.schedule.warmup_steps=2", "execution.kind=in-process"),
    *("finetuning.context_length=32", "finetuning.batch_tokens=64", "finetuning.micro_batch_tokens=64"),
    *("finetuning.duration=2 steps", "finetuning.validation_tokens=64", "finetuning.held_out_fraction=0.3"),
]


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=290, n_embd=32, n_layer=2, n_head=2, n_positions=64))


def gemma():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "vocab_size": 290}
    return Gemma2ForCausalLM(Gemma2Config(**shape))


@pytest.fixture
def started(tmp_path, documents):
    """A pipeline by the recipe from a model that transformers has made."""
    examples = tmp_path / "examples.jsonl"
    rows = [{"question": f"{WORDS[n % 12]} {n}?", "answer": WORDS[n % 5]} for n in range(30)]
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def made(model, *overrides):
        folder = tmp_path / "theirs"
        model.save_pretrained(folder)
        own = tokenizers.ByteLevelBPETokenizer()
        own.train_from_iterator([" ".join(WORDS)] * 20, vocab_size=290, min_frequency=1)
        own.save(str(folder / "tokenizer.json"))
        given = [documents, f"base.model={folder}", f"finetuning.examples={examples}", *SMALL, *overrides]
        return Pipeline(load_run("continue", given), tmp_path / "out", Stop())

    return made


@pytest.mark.parametrize("build", [gpt2, gemma])
def test_a_base_learns_documents_and_then_to_answer(started, build):
    torch.manual_seed(1)
    base = build()
    made = started(base, "pretraining.duration=12 steps", "pretraining.optimizer.learning_rate=3e-3")
    adapter, checkpoint = made.adapter(), made.checkpoint()
    model = load_model(checkpoint.path)
    assert architecture_of(model.config).class_name == type(base).__name__
    assert adapter.parents["checkpoint"] == checkpoint.id
    curve = json.loads((checkpoint.path / "curve.json").read_text())
    rates = [record["learning_rate"] for record in curve]
    assert rates[0] < rates[1] == max(rates) == pytest.approx(3e-3) and rates[-1] < 0.2 * max(rates)
    assert curve[-1]["loss"] < curve[0]["loss"]
    load_adapter(model, adapter.path)
    assert isinstance("".join(load_responder(made.out).answer("amber?")), str)


def test_the_recipe_says_that_it_needs_a_base(tmp_path):
    run = load_run("continue", [])
    assert run.pretraining.optimizer.learning_rate < load_run("default", []).pretraining.optimizer.learning_rate
    with pytest.raises(ConfigError, match=r"base\.model is 'FOLDER', where there is nothing") as caught:
        Pipeline(run, tmp_path, Stop()).base()
    assert "hub:OWNER/NAME" in caught.value.remedy
