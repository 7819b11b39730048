"""The counts of a description against models that are built, run and optimised."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.describe import describe, family_of
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.interchange import from_config_json
from preceptor.models.sizes import named, names
from preceptor.models.two_stream_config import TwoStreamConfig
from preceptor.nn.attention import recorded_attention
from preceptor.nn.inputs import Inputs
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import OptimizerConfig

SHAPE = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
CONFIGS = {
    "decoder": DecoderConfig(**SHAPE, head_dim=8, num_key_value_heads=2, max_position_embeddings=40),
    "learned": DecoderConfig(
        **SHAPE,
        head_dim=8,
        num_key_value_heads=4,
        positions="learned",
        gated=False,
        norm="layernorm",
        attention_bias="all",
        mlp_bias=True,
        tie_word_embeddings=False,
    ),
    "encoder": EncoderConfig(**SHAPE, type_vocab_size=2, positions="learned", pooler=True, norm_placement="after"),
    "rotary encoder": EncoderConfig(**SHAPE, sliding_window=4, full_attention_every=2, tie_word_embeddings=False),
    "two_stream": TwoStreamConfig(**SHAPE),
    "encoder_decoder": EncoderDecoderConfig(**SHAPE, head_dim=8, num_decoder_layers=2),
    "bart": EncoderDecoderConfig(
        **SHAPE, head_dim=8, positions="learned", norm="layernorm", bias=True, gated=False, tie_word_embeddings=True
    ),
}


def built(config):
    return family_of(config).module(config)


def inputs_of(config, num_tokens):
    tokens = torch.randint(0, config.vocab_size, (1, num_tokens), generator=torch.Generator().manual_seed(1))
    return Inputs(tokens, source=Inputs(tokens) if config.family == "encoder_decoder" else None)


@pytest.mark.parametrize("num_tokens", [8, 24])
@pytest.mark.parametrize("name", CONFIGS)
def test_operations_are_those_that_torch_counts(name, num_tokens):
    config = CONFIGS[name]
    model, said = built(config), describe(config, num_tokens).flops_per_token
    # Recorded attention is made of plain products, all of which torch counts, forward and backward.
    with recorded_attention(), FlopCounterMode(display=False) as counter:
        logits = model(inputs_of(config, num_tokens))
        forward = counter.get_total_flops()
        logits.sum().backward()
    both = counter.get_total_flops()
    # XLNet's distances are shared by the text, so that a token's part of them need not be whole.
    assert said.forward == pytest.approx(forward / num_tokens, abs=config.num_hidden_layers)
    # No gradient flows to XLNet's waves, whose projection therefore has one product in backward, not two.
    spared = 0
    if config.family == "two_stream":
        spared = config.num_hidden_layers * 2 * (2 * num_tokens - 1) * config.hidden_size**2 / num_tokens
    assert said.forward_and_backward - spared == pytest.approx(both / num_tokens, abs=3 * config.num_hidden_layers)
    assert said.forward == said.weights + said.attention


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("name", CONFIGS)
def test_optimizer_state_is_what_the_optimizer_holds(name, kind):
    model = built(CONFIGS[name])
    parameters = dict(model.named_parameters())
    optimizer = Optimizer(parameters, OptimizerConfig(kind=kind))
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(1.0)
    memory = describe(CONFIGS[name]).memory
    state = optimizer.state_tensors()
    del state["num_tensors"]
    assert getattr(memory, kind) == sum(tensor.nbytes for tensor in state.values())
    assert memory.weights_float32 == memory.gradients == sum(p.nbytes for p in parameters.values())
    assert memory.weights_bfloat16 * 2 == memory.weights_float32


@pytest.mark.parametrize("name", ["decoder", "learned", "encoder_decoder", "bart"])
def test_the_cache_is_the_one_that_generation_takes(name):
    cache = built(CONFIGS[name]).new_cache(1, 10)
    said = describe(CONFIGS[name], 10).memory
    held = cache.keys_LBSKH.nbytes + cache.values_LBSKH.nbytes
    if CONFIGS[name].family == "encoder_decoder":  # and those of a source of the same length
        held *= 2
    assert said.cache_full_context_float32 == held
    assert said.cache_per_token_float32 * 10 == said.cache_full_context_float32


@pytest.mark.parametrize("name", ["decoder", "learned", "encoder", "rotary encoder"])
def test_activations_are_near_what_backward_keeps(name):
    """Within 35 percent of the bytes that autograd keeps beside the weights, each kept tensor counted once."""
    config, num_tokens = CONFIGS[name], 32
    model = built(config)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.is_floating_point():
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.hidden(inputs_of(config, num_tokens))
    measured = sum(size for size, _ in kept.values()) / num_tokens
    assert describe(config).memory.activations_per_token_float32 == pytest.approx(measured, rel=0.35)


def test_blocks_are_folded_and_nothing_is_lost():
    said = describe(CONFIGS["decoder"])
    by_name = {group.name: group for group in said.tensors}
    assert by_name["model.layers.*.self_attn.q_proj.weight"].count == 3
    assert by_name["model.layers.*.self_attn.k_proj.weight"].shape == (16, 32)
    assert sum(group.parameters for group in said.tensors) == said.parameters == said.trainable_parameters
    assert said.parameters_without_embeddings == said.parameters - 61 * 32
    assert said.context_length == 40


def config_of(name):
    size = named(name)
    return from_config_json({"model_type": size.model_type, **size.config}, name)[1]


@pytest.mark.parametrize("name", names())
def test_published_counts(name):
    assert describe(config_of(name)).parameters == named(name).num_parameters


@pytest.mark.parametrize(
    "name, count",
    # Source: Biderman et al. 2023, table 1, non-embedding parameters.
    [("pythia-70m", 18_915_328), ("pythia-160m", 85_056_000), ("pythia-410m", 302_311_424)],
)
def test_published_counts_without_embeddings(name, count):
    assert describe(config_of(name)).parameters_without_embeddings == count


def test_palms_formula_for_gpt_3():
    """6 for each weight in a product, and 12 times layers, heads, size of a head and context: PaLM, appendix B."""
    said = describe(config_of("gpt3-175b"))
    weights = said.parameters_without_embeddings + 50257 * 12288
    formula = 6 * weights + 12 * 96 * 96 * 128 * 2048
    assert said.flops_per_token.forward_and_backward == pytest.approx(formula, rel=1e-4)
