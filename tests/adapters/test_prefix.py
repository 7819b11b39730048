"""Prefix tuning against peft: every architecture, gradients, files both ways, and generation."""

import warnings
from itertools import pairwise

import pytest
import torch
from virtual_token_samples import (
    DECODERS,
    MADE,
    NUM_TOKENS,
    PAIRS,
    PREFIX,
    PROMPT,
    START,
    TOLERANCE,
    VOCAB_SIZE,
    adapted,
    built,
    in_front,
    inputs_of,
    next_tokens,
    our_loss,
    our_states,
    peft_of,
    peft_task,
    saved,
    their_base,
    their_loss,
    their_states,
    tokens,
)

from preceptor.adapters import prefix
from preceptor.adapters.adapter import trainable
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.attach import adapt, load_adapter, merge, save_adapter, virtual_ids
from preceptor.core.errors import ArtifactError, ConfigError, MismatchError
from preceptor.models.heads import HeadConfig, attach_head, head_scores
from preceptor.models.interchange import load_model
from preceptor.nn.attention import recorded_attention
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.serve.generate import generate, generate_many
from preceptor.serve.sampling import SamplingConfig

READ_BY_PEFT = [*DECODERS, "bert", "roberta", *PAIRS]
"""transformers' DistilBERT and ModernBERT take no keys and values from outside, so peft has no prefix for them."""


@pytest.fixture(params=READ_BY_PEFT)
def name(request):
    return request.param


def gradients_of(model):
    """Of the prefix of each layer, keys and then values, side by side."""
    found = [attention.prefix for attention in prefix._attentions(model)]
    rows = [each.grad.flatten(1) for one in found for each in (one.keys_PKH, one.values_PKH)]
    return torch.cat(rows, dim=1)


def test_peft_reads_what_we_save_and_gives_the_same_states_loss_and_gradients(name, tmp_path):
    ours = adapted(name, PREFIX, tmp_path)
    theirs = peft_of(name, tmp_path)
    ids, labels = tokens(), next_tokens(tokens())
    given, expected = our_states(name, ours, inputs_of(name, ids)), their_states(name, theirs, ids)
    torch.testing.assert_close(given, expected, **TOLERANCE)
    loss, their = our_loss(name, ours, inputs_of(name, ids), labels), their_loss(name, expected, labels)
    torch.testing.assert_close(loss, their, **TOLERANCE)
    loss.backward()
    their.backward()
    wanted = theirs.prompt_encoder["default"].embedding.weight.grad
    if name in PAIRS:  # Every second pair of keys and values is dropped by peft.
        wanted = wanted.view(NUM_TOKENS, -1, 2, wanted.shape[1] // (4 * len(ours.decoder.layers)))
        wanted = wanted.view(NUM_TOKENS, -1, 2, 2, wanted.shape[3])
        assert not wanted[:, :, 1].any()
        wanted = wanted[:, :, 0].flatten(1)
    torch.testing.assert_close(gradients_of(ours), wanted, **TOLERANCE)
    assert {n for n, p in ours.named_parameters() if p.grad is not None} == {
        n for n, _ in ours.named_parameters() if ".prefix." in n
    }


def projected(name, folder):
    """A prefix made by a network in peft, and the same weights in ours."""
    ours = built(name)
    saved(ours, folder)
    base = their_base(name, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import PrefixTuningConfig, get_peft_model

        config = PrefixTuningConfig(
            task_type=peft_task(name), num_virtual_tokens=NUM_TOKENS, prefix_projection=True, encoder_hidden_size=20
        )
        theirs = get_peft_model(base, config).eval()
    adapt(ours, MADE, torch.Generator().manual_seed(3))
    network = theirs.prompt_encoder["default"]
    with torch.no_grad():
        ours.prefix_network.embedding_PW.copy_(network.embedding.weight)
        ours.prefix_network.inner.load_state_dict(network.transform[0].state_dict())
        for place, attention in enumerate(prefix._attentions(ours)):
            output = attention.prefix.output
            rows = slice(place * output.out_features, (place + 1) * output.out_features)
            output.weight.copy_(network.transform[2].weight[rows])
            output.bias.copy_(network.transform[2].bias[rows])
    return ours, theirs, network


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_prefix_made_by_a_network_is_pefts_and_is_saved_without_the_network(name, tmp_path):
    ours, theirs, network = projected(name, tmp_path)
    ids, labels = tokens(), next_tokens(tokens())
    expected = their_states(name, theirs, ids)
    torch.testing.assert_close(our_states(name, ours, inputs_of(name, ids)), expected, **TOLERANCE)
    our_loss(name, ours, inputs_of(name, ids), labels).backward()
    their_loss(name, expected, labels).backward()
    torch.testing.assert_close(ours.prefix_network.embedding_PW.grad, network.embedding.weight.grad, **TOLERANCE)
    torch.testing.assert_close(ours.prefix_network.inner.weight.grad, network.transform[0].weight.grad, **TOLERANCE)
    outputs = [attention.prefix.output.weight.grad for attention in prefix._attentions(ours)]
    torch.testing.assert_close(torch.cat(outputs), network.transform[2].weight.grad, **TOLERANCE)
    save_adapter(ours, MADE, tmp_path / "adapter", "a-base")
    again = load_adapter(load_model(tmp_path), tmp_path / "adapter")
    assert not hasattr(again, "prefix_network")
    torch.testing.assert_close(their_states(name, peft_of(name, tmp_path), ids), expected, **TOLERANCE)
    torch.testing.assert_close(our_states(name, again, inputs_of(name, ids)), expected, **TOLERANCE)


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "t5, four layers", "bart"])
@pytest.mark.parametrize("projection", [False, True])
def test_we_read_what_peft_saves(name, projection, tmp_path):
    """With four layers peft gives the decoder's last two layers the prefixes of the first two; so do we then."""
    saved(built(name), tmp_path)
    base = their_base(name, tmp_path)
    torch.manual_seed(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import PrefixTuningConfig, get_peft_model

        config = PrefixTuningConfig(
            task_type=peft_task(name), num_virtual_tokens=NUM_TOKENS, prefix_projection=projection
        )
        if name.startswith("t5"):  # Its heads do not fill the width, which peft does not know.
            config.token_dim, config.num_attention_heads = 24, 4
        theirs = get_peft_model(base, config).eval()
        theirs.save_pretrained(tmp_path / "adapter")
    ours = load_adapter(load_model(tmp_path), tmp_path / "adapter")
    ids = tokens()
    given, expected = our_states(name, ours, inputs_of(name, ids)), their_states(name, theirs, ids)
    torch.testing.assert_close(given, expected.detach(), **TOLERANCE)


@pytest.mark.parametrize("name", ["modernbert", "distilbert"])
def test_encoders_that_peft_has_no_prefix_for(name, tmp_path):
    """transformers' model is given an attention that puts the prefix in front."""
    ours = adapted(name, PREFIX, tmp_path)
    pairs = prefix.keys_and_values(ours)
    places = torch.arange(NUM_TOKENS + 15)
    near = (places[NUM_TOKENS:, None] - places).abs() <= ours.config.sliding_window
    layers = {}

    def attention(module, queries, keys, values, mask, scaling=None, **_):
        layer = layers[module]
        in_front = [each.transpose(0, 1).expand(len(keys), -1, -1, -1) for each in pairs[layer]]
        keys, values = torch.cat((in_front[0], keys), dim=2), torch.cat((in_front[1], values), dim=2)
        scores = queries @ keys.transpose(2, 3) * (queries.shape[-1] ** -0.5)
        if ours.config.window_of(layer):
            scores = scores.masked_fill(~near, float("-inf"))
        weights = scores.softmax(-1)
        return (weights @ values).transpose(1, 2), weights

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AttentionInterface

        AttentionInterface.register("in-front", attention)
        theirs = their_base(name, tmp_path)
        theirs.set_attn_implementation("in-front")
        found = [each for name, each in theirs.named_modules() if name.split(".")[-1] in ("attn", "attention")]
        layers |= {each: number for number, each in enumerate(found)}
        positions = torch.arange(NUM_TOKENS, NUM_TOKENS + 15).expand(3, -1)
        expected = theirs(input_ids=tokens(), position_ids=positions).last_hidden_state
    torch.testing.assert_close(ours.hidden(Inputs(tokens())), expected, **TOLERANCE)
    assert len(layers) == len(pairs) == 3


def test_only_the_prefix_trains_and_its_size_is_what_it_should_be():
    few, many = trainable(adapted("llama", PREFIX))
    assert few == 3 * 2 * NUM_TOKENS * 2 * 12 and few < many
    made = adapted("llama", MADE)
    assert trainable(made)[0] == NUM_TOKENS * 24 + 24 * 20 + 20 + 3 * 2 * 24 * 21
    assert virtual_ids(made) == [] and len(dict(made.named_parameters())) == len(made.state_dict())
    assert made.num_prefix_tokens == NUM_TOKENS and made.longest_document == 48 - NUM_TOKENS


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("config", [PREFIX, MADE])
def test_cached_generation_equals_reading_everything_anew(name, config):
    model = adapted(name, config)
    ids, lengths = tokens(), torch.tensor([9, 4, 7])
    cache = model.new_cache(3, 15)
    stepped = [model.step(ids[:, :9], cache, lengths)]
    for extra in range(6):
        stepped.append(model.step(torch.stack([ids[row, lengths[row] + extra] for row in range(3)])[:, None], cache))
    whole = model.logits(ids)
    for extra, logits_BV in enumerate(stepped):
        expected = torch.stack([whole[row, lengths[row] - 1 + extra] for row in range(3)])
        torch.testing.assert_close(logits_BV, expected, **TOLERANCE)
    assert not any(one.equal(other) for one, other in pairwise(stepped))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_cached_generation_of_an_encoder_decoder_equals_reading_everything_anew(name):
    model = adapted(name, PREFIX)
    ids = tokens(2, 7)
    ids[:, 0] = START
    source = inputs_of(name, ids).source
    cache = model.new_cache(2, 7)
    assert torch.equal(model.start(source, cache), ids[:, :1])
    whole = model(Inputs(ids, source=source)).detach()
    for place in range(7):
        torch.testing.assert_close(model.step(ids[:, place : place + 1], cache), whole[:, place], **TOLERANCE)


def test_generation_says_what_peft_says(tmp_path):
    ours = adapted("llama", PREFIX, tmp_path)
    theirs, ids = peft_of("llama", tmp_path), tokens(1, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = theirs.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            min_new_tokens=12,
            do_sample=False,
            eos_token_id=VOCAB_SIZE + 1,
            pad_token_id=0,
        )
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=12)
    assert list(generate(ours, ids[0].tolist(), greedy, VOCAB_SIZE + 1)) == given[0, 6:].tolist()


def test_generation_stops_where_prefix_and_tokens_fill_the_context():
    model, greedy = adapted("gpt2", PREFIX), SamplingConfig(temperature=0.0, max_new_tokens=100)
    said = list(generate(model, tokens(1, 60)[0].tolist(), greedy, VOCAB_SIZE + 1))
    # The last token is said, but not read any more.
    assert len(said) == 45 // 4 + 1
    assert generate_many(model, [tokens(1, 60)[0].tolist()], greedy, VOCAB_SIZE + 1) == [said]


def test_a_document_that_is_too_long_behind_the_prefix_is_told():
    model = adapted("gpt2", PREFIX)
    assert model.logits(tokens(1, 45)).shape == (1, 45, VOCAB_SIZE)
    with pytest.raises(ConfigError, match="can have 45 tokens"):
        model.logits(tokens(1, 46))
    with pytest.raises(ValueError, match="context of 45"):
        model.step(tokens(1, 46), model.new_cache(1, 48))
    places = torch.arange(24).repeat(2).unsqueeze(0)
    assert model(Inputs(tokens(1, 48), places, (torch.arange(48) // 24).unsqueeze(0))).shape == (1, 48, VOCAB_SIZE)


def test_weights_of_attention_count_the_prefix():
    model = adapted("llama", PREFIX)
    with recorded_attention() as weights:
        model.logits(tokens())
    assert [tuple(each.shape) for each in weights] == [(3, 4, 15, NUM_TOKENS + 15)] * 3
    assert all((each[..., :NUM_TOKENS] > 0).all() and each[..., 0, NUM_TOKENS + 1 :].eq(0).all() for each in weights)


def test_a_prefix_cannot_be_merged_nor_attached_where_there_is_no_place_for_it():
    with pytest.raises(ConfigError, match="prefix stands in front"):
        merge(adapted("llama", PREFIX))
    with pytest.raises(ConfigError, match="leave none of the 48 positions"):
        adapt(built("llama"), AdapterConfig(kind="prefix", num_virtual_tokens=48))
    with pytest.raises(ConfigError, match="no place for a prefix"):
        adapted("xlnet", PREFIX)


def test_a_prefix_of_another_model_or_a_torn_one_is_refused(tmp_path):
    adapted("llama", PREFIX, tmp_path)
    with pytest.raises(ArtifactError, match="does not fit a model of 3 layers with 4 heads of 8"):
        load_adapter(built("gpt2"), tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"\x00" * 5)
    with pytest.raises(ArtifactError, match="does not hold an adapter of kind PREFIX_TUNING"):
        load_adapter(built("llama"), tmp_path / "adapter")


@pytest.mark.parametrize("config", [PREFIX, PROMPT])
def test_heads_travel_with_it_no_path_does_and_another_base_is_refused(config, tmp_path):
    model = attach_head(built("bert"), "topic", HeadConfig(labels=("a", "b")), torch.Generator().manual_seed(4))
    adapt(model, config, torch.Generator().manual_seed(3))
    assert all(parameter.requires_grad for parameter in model.heads.parameters())
    save_adapter(model, config, tmp_path, str(tmp_path / "my-base"))
    again = load_adapter(built("bert"), tmp_path, "my-base")
    ids = in_front(virtual_ids(again), tokens())
    assert torch.equal(head_scores(again, "topic", Inputs(ids)), head_scores(model, "topic", Inputs(ids)))
    with pytest.raises(MismatchError, match="another model"):
        load_adapter(built("bert"), tmp_path, "another-base")


def test_an_ignored_label_stays_ignored():
    model = adapted("llama", PREFIX)
    labels = next_tokens(tokens())
    labels[:, 3:] = IGNORED
    assert model.loss_sum(Inputs(tokens()), labels)[2] == 9
