"""Runs that start from a model that exists: a folder, a GGUF file, a run, a name on the Hub; and from word vectors."""

import json

import pytest
import tokenizers
import torch
from gguf_samples import write_model
from tuning import make_encoder

from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.core.interrupt import Stop
from preceptor.models.gguf import read_gguf
from preceptor.models.interchange import gguf_model, load_model, save_model
from preceptor.recipes.model_lookup import find_config, find_model
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.report import write_report, write_run_file
from preceptor.recipes.run import load_run
from preceptor.recipes.summary import summary
from preceptor.recipes.tokenizer_choice import compare_for_run
from preceptor.tokenizer.config import ASSISTANT, USER

RECIPE = """
[pretraining]
context_length = 32
batch_tokens = 128
micro_batch_tokens = 128
duration = "2 steps"
validation_tokens = 128
[finetuning]
examples = ""
[execution]
kind = "in-process"
"""
WORDS = [
    *("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch"),
    *("marsh", "niche", "ocean", "plain"),
]


@pytest.fixture
def recipe(tmp_path, documents):
    """A pipeline from a recipe that describes no model, with overrides."""
    (tmp_path / "mine.toml").write_text(RECIPE)

    def made(*overrides, out="out"):
        return Pipeline(load_run(str(tmp_path / "mine.toml"), [documents, *overrides]), tmp_path / out, Stop())

    return made


@pytest.fixture
def folder(tmp_path):
    """A model that transformers has made, with a tokenizer that knows neither an end of text nor a chat."""
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path / "theirs"
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    own = tokenizers.ByteLevelBPETokenizer()
    own.train_from_iterator([" ".join(WORDS)] * 20, vocab_size=300, min_frequency=1)
    own.save(str(path / "tokenizer.json"))
    return path


def test_a_folder_is_trained_further_with_its_own_tokenizer(recipe, folder, capsys):
    made = recipe(f"base.model={folder}", *STILL)
    checkpoint, base = made.checkpoint(), made.base()
    assert checkpoint.parents["base"] == base.id
    before, after = load_model(folder).state_dict(), load_model(checkpoint.path).state_dict()
    for name, tensor in before.items():
        # What is new stands behind.
        torch.testing.assert_close(after[name][: len(tensor)], tensor, rtol=0, atol=1e-9)
    assert load_model(checkpoint.path).config.vocab_size == 303 == base.facts["model"]["vocab_size"]
    assert base.facts["new_tokens"] == 3
    assert (
        "base: 3 tokens are new to the model, and start from its mean: <|endoftext|>, <|user|>, <|assistant|>\n"
        in capsys.readouterr().err
    )
    tokenizer = find_model(checkpoint.path)[1]
    assert tokenizer.encode(" amber") == find_model(folder)[1].encode(" amber")
    assert {USER, ASSISTANT} <= set(tokenizer.special_tokens)
    assert [row.stage for row in made.rows] == ["data", "base", "tokenizer", "tokens", "pretrain"]


def test_the_report_says_where_training_started(recipe, folder, vectors):
    made = recipe(f"base.model={folder}", "evaluation.num_memorisation_documents=2")
    made.evaluation()
    write_report(made)
    said = json.loads((made.out / "report.json").read_text())["pretraining"]["base"]
    assert said["source"] == str(folder) and said["artifact"] == made.base().id
    page = (made.out / "report.html").read_text()
    assert f"started from {folder}, a LlamaForCausalLM, with 3 new tokens" in page
    assert "LlamaForCausalLM" in summary(made, json.loads((made.out / "report.json").read_text()))
    vectored = recipe(*SHAPE, f"pretraining.word_vectors.path={vectors}", "evaluation.num_memorisation_documents=2")
    vectored.evaluation()
    write_report(vectored)
    assert "16 started from word vectors" in (vectored.out / "report.html").read_text()


def test_it_is_taken_once_and_again_when_it_changes(recipe, folder):
    first = recipe(f"base.model={folder}").checkpoint()
    again = recipe(f"base.model={folder}")
    assert again.checkpoint().id == first.id and all(row.reused for row in again.rows)
    moved = folder.rename(folder.with_name("elsewhere"))
    elsewhere = recipe(f"base.model={moved}")
    assert elsewhere.checkpoint().id == first.id and all(row.reused for row in elsewhere.rows)
    model = load_model(moved)
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    save_model(model, moved)
    changed = recipe(f"base.model={moved}")
    assert changed.checkpoint().id != first.id
    assert [row.stage for row in changed.rows if not row.reused] == ["base", "tokenizer", "tokens", "pretrain"]


def test_a_gguf_file_is_a_base_model(tmp_path, recipe):
    path = write_model(tmp_path / "model.gguf", "llama")
    made = recipe(f"base.model={path}", *STILL)
    state, expected = load_model(made.checkpoint().path).state_dict(), gguf_model(read_gguf(path)).state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name][: len(tensor)], tensor, rtol=0, atol=1e-9)
    assert find_config(str(path)) == gguf_model(read_gguf(path)).config
    model, tokenizer = find_model(path)
    assert tokenizer.vocab_size >= model.config.vocab_size
    assert tokenizer.decode(tokenizer.encode("amber birch 12")) == "amber birch 12"


def test_the_folder_of_a_run_is_a_base_model(recipe, folder):
    first = recipe(f"base.model={folder}")
    second = recipe(f"base.model={first.out}", out="second")
    first.checkpoint()
    assert second.checkpoint().parents["base"] == second.base().id
    assert second.base().facts["num_parameters"] == first.checkpoint().facts["num_parameters"]


def test_tokenizers_are_compared_for_the_model_of_the_base(recipe, folder, tmp_path):
    made = recipe(f"base.model={folder}")
    made.tokens()
    write_run_file(made.run, made.out)
    rows = compare_for_run(tmp_path / "out", ["word"])
    assert rows[0].name and len(rows) == 2


def test_a_name_on_the_hub_is_fetched_without_code_or_pickles(recipe, folder, monkeypatch):
    asked = []

    def fetch(name, *, revision, allow_patterns, ignore_patterns):
        asked.append((name, revision, allow_patterns, ignore_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    made = recipe("base.model=hub:someone/small", "base.revision=v1")
    assert made.checkpoint().parents["base"] == made.base().id
    assert {each[:2] for each in asked} == {("someone/small", "v1")}
    assert not any(pattern.endswith((".py", ".bin", "*", ".pt", ".pkl")) for pattern in asked[0][2])


def test_a_hub_that_cannot_be_reached_is_told_before_any_work(recipe, monkeypatch):
    def fetch(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    made = recipe("base.model=hub:someone/small")
    with pytest.raises(ConfigError, match=r"someone/small.*no route to host") as caught:
        made.checkpoint()
    assert caught.value.path == "base.model" and not made.store.all("corpus")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["base.model=nowhere"], "where there is nothing"),
        (["base.model=hub:small"], "hub:OWNER/NAME"),
        (["base.revision=v1"], "revision"),
        (["base.model={folder}", "model.hidden_size=64"], r"takes the place of \[model\]"),
        (["base.model={folder}", "tokenizer.vocab_size=999"], r"takes the place of \[tokenizer\]"),
        (["base.model={folder}", "pretraining.word_vectors.path=x.vec"], "must be left out"),
        (
            ["base.model={folder}", "pretraining.objective.kind=masked"],
            "not train a model of the family 'decoder'",
        ),
        (["base.model={folder}", "pretraining.context_length=128"], "positions for 64 tokens only"),
    ],
)
def test_what_cannot_be_is_told_before_any_work(recipe, folder, overrides, said):
    with pytest.raises(ConfigError, match=said):
        recipe(*(each.format(folder=folder) for each in overrides)).checkpoint()
    assert not list((folder.parent / "out/artifacts").glob("corpus/*"))


def test_a_base_that_is_no_model_is_told_in_a_line(recipe, folder, tmp_path):
    (tmp_path / "notes.txt").write_text("no model")
    for name in ("notes.txt", "mine.toml"):
        with pytest.raises(ArtifactError, match="is no folder and no GGUF file") as caught:
            recipe(f"base.model={tmp_path / name}").checkpoint()
        assert ".gguf" in caught.value.remedy
    assert not list((tmp_path / "out/artifacts").glob("corpus/*"))


def test_a_folder_with_the_name_of_a_published_model_is_itself(recipe, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "bert-base-uncased")
    assert recipe("base.model=bert-base-uncased").checkpoint().facts["num_parameters"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_names_it(recipe, folder, name):
    (folder / name).unlink()
    with pytest.raises((ConfigError, ArtifactError)) as caught:
        recipe(f"base.model={folder}").checkpoint()
    assert caught.value.remedy


def test_a_pickle_is_never_opened(recipe, folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError) as caught:
        recipe(f"base.model={folder}").checkpoint()
    assert "pytorch_model.bin" in caught.value.remedy and "never opened" in caught.value.remedy


@pytest.fixture
def vectors(tmp_path):
    """A file of word vectors, of eight numbers each."""
    torch.manual_seed(1)
    path = tmp_path / "words.vec"
    rows = [f"{word} " + " ".join(f"{float(n):.4f}" for n in torch.randn(8)) for word in WORDS]
    path.write_text("\n".join([f"{len(rows)} 8", *rows]) + "\n")
    return path


STILL = ["pretraining.optimizer.learning_rate=1e-12", "pretraining.optimizer.adamw_learning_rate=1e-12"]
"""Steps so small that the weights stay where they start."""
SHAPE = [
    *("model.hidden_size=32", "model.intermediate_size=48", "model.num_hidden_layers=2"),
    *("model.num_attention_heads=2", "model.num_key_value_heads=1", "model.head_dim=16"),
    *("tokenizer.kind=word", "tokenizer.vocab_size=200", "model.tie_word_embeddings=false"),
]


def test_word_vectors_start_the_embedding_and_can_be_frozen(recipe, vectors, capsys):
    made = recipe(*SHAPE, f"pretraining.word_vectors.path={vectors}", "pretraining.word_vectors.freeze=true")
    checkpoint = made.checkpoint()
    said = checkpoint.facts["word_vectors"]
    assert said["num_covered"] == len(WORDS) and 0.3 < said["text_share"] < 1
    assert "word vectors: 16 of" in capsys.readouterr().err
    model, tokenizer = find_model(checkpoint.path)
    rows = model.input_embedding.weight.detach()
    here = [tokenizer.encode(f"x {word}")[-1] for word in WORDS]
    given = torch.tensor([[float(n) for n in line.split()[1:]] for line in vectors.read_text().splitlines()[1:]])
    # What the file says stands first in each row, all of it made larger or smaller by one factor.
    torch.testing.assert_close(rows[here][:, :8] / rows[here[0], 0] * given[0, 0], given, rtol=1e-3, atol=1e-3)
    trained = recipe(*SHAPE, f"pretraining.word_vectors.path={vectors}").checkpoint()
    assert not torch.equal(load_model(trained.path).input_embedding.weight, rows)


def test_another_file_of_word_vectors_is_another_model(recipe, vectors):
    overrides = [*SHAPE, f"pretraining.word_vectors.path={vectors}"]
    first = recipe(*overrides).checkpoint()
    lines = vectors.read_text().splitlines()
    vectors.write_text("\n".join([lines[0], *reversed(lines[1:])]).replace("0.1", "0.2") + "\n")
    assert recipe(*overrides).checkpoint().id != first.id


def test_word_vectors_that_are_missing_are_told_before_any_work(recipe):
    made = recipe(*SHAPE, "pretraining.word_vectors.path=gone.vec")
    with pytest.raises(ConfigError, match=r"gone\.vec") as caught:
        made.checkpoint()
    assert caught.value.path == "pretraining.word_vectors.path" and not made.store.all("corpus")


def test_an_encoder_without_an_output_layer_gets_one(recipe, folder):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=310,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": "<mask>"}))
    words = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    words.add_special_tokens(["<mask>"])
    words.save(str(folder / "tokenizer.json"))
    made = recipe(f"base.model={folder}", "pretraining.objective.kind=masked", *STILL)
    before, after = load_model(folder), load_model(made.checkpoint().path)
    assert not before.config.lm_head and after.config.lm_head
    states = [model.state_dict()["layers.1.mlp.down_proj.weight"] for model in (before, after)]
    torch.testing.assert_close(*states, rtol=0, atol=1e-9)
    assert after.output_weight_VD is after.input_embedding.weight


def test_an_encoder_which_never_talks_keeps_its_vocabulary(recipe, tmp_path, capsys):
    base = recipe(f"base.model={make_encoder(tmp_path / 'encoder')}", "pretraining.objective.kind=masked").base()
    model, tokenizer = find_model(base.path)
    assert base.facts["new_tokens"] == 0 and "new to the model" not in capsys.readouterr().err
    assert model.config.vocab_size == 200 and USER not in tokenizer.special_tokens
