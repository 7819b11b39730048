"""Models that transformers runs: its losses, documents kept apart, adapters, generation, saving, refusals."""

import json
import warnings

import pytest
import torch

from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.attach import adapt as attach
from preceptor.adapters.attach import merge, save_adapter
from preceptor.adapters.quantised import is_quantised, quantise
from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.models import foreign
from preceptor.models.foreign import ForeignModel
from preceptor.models.growth import grow_vocabulary
from preceptor.models.heads import HeadConfig, attach_head, head_scores
from preceptor.models.interchange import from_config_json, load_model, save_model
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch
from preceptor.objectives.causal import language_model_loss
from preceptor.parallel.engine import place
from preceptor.train.activations import saving_activations
from preceptor.train.memory_config import MemoryConfig
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import OptimizerConfig

SIZES = {
    "vocab_size": 67,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
TYPES = {
    "falcon": {**SIZES, "new_decoder_architecture": True, "num_kv_heads": 1, "ffn_hidden_size": 64},
    "bloom": {**SIZES, "n_layer": 2, "n_head": 2},
    "opt": {**SIZES, "ffn_dim": 64, "max_position_embeddings": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
    "stablelm": {**SIZES, "intermediate_size": 64, "num_key_value_heads": 1, "max_position_embeddings": 64},
    "phi": {**SIZES, "intermediate_size": 64, "max_position_embeddings": 64},
    "cohere": {**SIZES, "intermediate_size": 64, "num_key_value_heads": 1, "logit_scale": 0.25},
    "mamba": {**SIZES, "state_size": 4},
}
WITHOUT_MASK = {"bloom", "mamba"}


def theirs(model_type):
    from transformers import AutoConfig, AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **TYPES[model_type])).eval()


@pytest.fixture(scope="module", params=TYPES)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    theirs(request.param).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def falcon(tmp_path_factory):
    path = tmp_path_factory.mktemp("falcon")
    theirs("falcon").save_pretrained(path)
    return path


def tokens(rows=2, length=12, seed=1):
    return torch.randint(0, 67, (rows, length), generator=torch.Generator().manual_seed(seed))


def packed(first):
    """Three documents and padding in one row, the first of which is given."""
    rest = tokens(1, 9, seed=3)
    row = torch.cat([first, rest, torch.zeros(1, 3, dtype=torch.int64)], dim=1)
    lengths = [first.shape[1], 4, 5, 3]
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    segments = torch.repeat_interleave(torch.tensor([0, 1, 2, -1]), torch.tensor(lengths)).unsqueeze(0)
    return Inputs(row, positions, segments)


def test_the_loss_is_that_of_transformers(folder):
    from transformers import AutoModelForCausalLM

    model = load_model(folder)
    assert isinstance(model, ForeignModel) and not model.training
    original = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    row = tokens()
    total, _, count = model.loss_sum(Inputs(row[:, :-1]), row[:, 1:])
    expected = original(input_ids=row, labels=row).loss
    torch.testing.assert_close(total / count, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.logits(row), original(input_ids=row).logits.detach(), rtol=1e-5, atol=1e-5)
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in original.named_parameters()}


def test_packed_documents_are_what_they_are_alone(folder):
    model = load_model(folder)
    assert model.isolates_documents == (model.config.model_type not in WITHOUT_MASK)
    inputs = packed(tokens(1, 5))
    states = model.hidden(inputs)
    other = model.hidden(packed(tokens(1, 5, seed=9)))
    assert torch.equal(states[:, 5:14], other[:, 5:14]) and not torch.equal(states[:, :5], other[:, :5])
    for start, stop in ((0, 5), (5, 9), (9, 14)):
        alone = model.hidden(Inputs(inputs.tokens_BT[:, start:stop]))
        torch.testing.assert_close(states[:, start:stop], alone, rtol=1e-4, atol=1e-5)
    model._proof = foreign._Proof(isolates=False, scale=model._proved().scale)
    torch.testing.assert_close(model.hidden(inputs)[:, :14], states[:, :14], rtol=1e-4, atol=1e-5)


class Causal:
    def loss(self, model, batch):
        return language_model_loss(model, batch)


def losses(model, steps=6):
    engine = place(model)
    optimizer = Optimizer(engine.parameters, OptimizerConfig(kind="adamw", learning_rate=0.01))
    inputs = packed(tokens(1, 5))
    labels = inputs.tokens_BT.roll(-1, 1)
    labels[0, [4, 8, 13, 14, 15, 16]] = IGNORED
    found = []
    for _ in range(steps):
        sums = engine.forward_backward(Causal(), [Batch(inputs, labels)])
        assert len(engine.gradients()) == len(engine.parameters)
        optimizer.step(1.0)
        engine.clear_gradients()
        found.append(sums.total)
    return found


@pytest.mark.parametrize("way", ["full", "lora", "qlora"])
def test_all_ways_of_training_learn(folder, way):
    model = load_model(folder)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    looks_inside = model.config.model_type == "mamba"
    if way == "qlora":
        assert is_quantised(quantise(model))
    if way != "full":
        attach(model, AdapterConfig(rank=4, target_modules=("in_proj",) if looks_inside else ()))
    if way == "qlora" and looks_inside:
        with pytest.raises(ConfigError, match="looks into a layer"):
            losses(model)
        return
    found = losses(model)
    assert found[-1] < 0.9 * found[0]
    after = dict(model.named_parameters())
    moved = {name for name in before if name in after and not torch.equal(before[name], after[name])}
    assert moved == (set(before) if way == "full" else set())


def test_a_model_whose_code_looks_into_layers_says_which_can_be_adapted(tmp_path):
    theirs("mamba").save_pretrained(tmp_path)
    model = attach(load_model(tmp_path), AdapterConfig(rank=4))
    with pytest.raises(ConfigError, match="looks into a layer") as raised:
        losses(model)
    assert "target_modules" in str(raised.value)
    found = losses(attach(load_model(tmp_path), AdapterConfig(rank=4, target_modules=("in_proj",))))
    assert found[-1] < 0.9 * found[0]


def test_an_adapter_is_in_the_layout_that_peft_loads_and_merges(falcon, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, config = load_model(falcon), AdapterConfig(rank=4)
    attach(model, config)
    losses(model)
    save_adapter(model, config, tmp_path, str(falcon))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(falcon, dtype=torch.float32), tmp_path)
    row = tokens()
    expected = other.eval()(row).logits.detach()
    torch.testing.assert_close(model.eval().logits(row), expected, rtol=1e-4, atol=1e-4)
    merge(model)
    torch.testing.assert_close(model.logits(row), expected, rtol=1e-4, atol=1e-4)
    whole = tmp_path / "whole"
    whole.mkdir()
    save_model(model, whole)
    assert torch.equal(load_model(whole).logits(row), model.logits(row))


def test_generation_follows_the_likeliest_tokens_of_transformers(falcon):
    from transformers import AutoModelForCausalLM

    model = load_model(falcon)
    original = AutoModelForCausalLM.from_pretrained(falcon, dtype=torch.float32)
    cache = model.new_cache(2, 20)
    rows = [tokens(1, 7)[0], tokens(1, 4, seed=2)[0]]
    padded = torch.zeros(2, 7, dtype=torch.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    logits = model.step(padded, cache, torch.tensor([7, 4]))
    for _ in range(4):
        chosen = logits.argmax(-1)
        for number, row in enumerate(rows):
            expected = original(input_ids=row.unsqueeze(0)).logits[0, -1].detach()
            torch.testing.assert_close(logits[number], expected, rtol=1e-4, atol=1e-4)
            rows[number] = torch.cat([row, chosen[number : number + 1]])
        logits = model.step(chosen.unsqueeze(1), cache)


def test_heads_and_activations_made_anew(tmp_path):
    theirs("stablelm").save_pretrained(tmp_path)
    found = []
    for memory in (MemoryConfig(), MemoryConfig(activation_checkpointing="full", keep_activations_in="disk")):
        model = attach_head(load_model(tmp_path), "task", HeadConfig(labels=("a", "b")))
        with saving_activations(model, memory, tmp_path):
            scores = head_scores(model, "task", packed(tokens(1, 5)))
            assert scores.shape == (1, 17, 2)
            scores.square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    assert all(each is None or torch.equal(each, found[1][name]) for name, each in found[0].items())
    assert found[0]["model.layers.0.mlp.up_proj.weight"].abs().sum() > 0


def test_a_vocabulary_grows(falcon, tmp_path):
    model = load_model(falcon)
    grown = grow_vocabulary(model, [[1, 2], []], torch.Generator().manual_seed(0))
    row = tokens()
    torch.testing.assert_close(grown.logits(row)[..., :67], model.logits(row), rtol=1e-5, atol=1e-5)
    assert grown.config.vocab_size == 69
    save_model(grown, tmp_path)
    assert torch.equal(load_model(tmp_path).logits(row), grown.logits(row))


def test_what_is_not_known_or_not_installed_or_not_whole_is_refused(falcon, tmp_path, monkeypatch):
    table = json.loads((falcon / "config.json").read_text())
    with pytest.raises(ArtifactError, match="quantised already"):
        from_config_json({**table, "quantization_config": {}}, tmp_path)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((falcon / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**table, "ffn_hidden_size": 96}))
    with pytest.raises(ArtifactError):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**table, "model_type": "openai-gpt", "n_positions": 8}))
    with pytest.raises(ArtifactError):
        load_model(tmp_path)
    with pytest.raises(ArtifactError, match="not a model that is known") as raised:
        from_config_json({"model_type": "nobody-knows"}, tmp_path)
    assert "preceptor[hf]" not in str(raised.value)
    monkeypatch.setattr(foreign, "_transformers", lambda: None)
    with pytest.raises(ArtifactError, match="not a model that is known") as raised:
        from_config_json(table, tmp_path)
    assert "preceptor[hf]" in str(raised.value)


def test_a_model_that_sees_what_comes_is_refused(tmp_path):
    from transformers import BertConfig, BertLMHeadModel

    sizes = {"vocab_size": 67, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertLMHeadModel(BertConfig(**sizes, intermediate_size=32)).save_pretrained(tmp_path)
    table = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(ArtifactError, match="behind it"):
        foreign.load_foreign(tmp_path, foreign.foreign_config(table))
