import pytest
from processes import assembled, cases, require_equal
from scenes import built

from preceptor.core.errors import ConfigError
from preceptor.models.foreign import FAMILY as FOREIGN
from preceptor.nn.normal_float import NormalFloatLinear
from preceptor.parallel.cutting import cut_up
from preceptor.parallel.mesh import Mesh
from preceptor.parallel.mesh_config import MeshConfig, sizes_of

TWO, FOUR = (2, {"tensor": 2}), (4, {"tensor": 4})
ALONG_TOKENS = (2, {"tensor": 2, "sequence_parallel": True})
LAYOUTS = {
    "two": TWO,
    "two, along the tokens": ALONG_TOKENS,
    "two copies of two": (4, {"replicate": 2, "tensor": 2}),
    "two shards of two": (4, {"shard": 2, "tensor": 2}),
    "two shards of two, along the tokens": (4, {"shard": 2, "tensor": 2, "sequence_parallel": True}),
}


def check(processes, alone, layout, **given):
    """The processes find the losses, norms and gradients that one finds, over three steps."""
    world, mesh = layout
    given = {"steps": 3} | given
    answers = processes.run("curve", world, mesh=mesh, **given)
    require_equal(answers, alone(**given))
    return answers


@pytest.mark.parametrize("tied", cases([False, True], [True]), ids=["untied", "tied"])
@pytest.mark.parametrize("layout", cases(LAYOUTS, ["two", "two, along the tokens"]))
def test_cut_layers_give_the_gradients_of_one_process(processes, alone, layout, tied):
    answers = check(processes, alone, LAYOUTS[layout], changes={"tie_word_embeddings": tied})
    pieces = answers[-1][0]["pieces"]
    if layout == "two":
        assert pieces["model.layers.0.self_attn.q_proj.weight"]["lengths"] == [16, 16]


GPT_2 = {
    "num_key_value_heads": 4,
    "head_dim": 4,
    "norm": "layernorm",
    "positions": "learned",
    "gated": False,
    "hidden_act": "gelu_new",
    "qk_norm": "none",
    "attention_bias": "all",
    "mlp_bias": True,
    "initializer_range": 0.3,
}
GEMMA = {
    "num_key_value_heads": 4,
    "norm_placement": "both",
    "norm_offset": True,
    "attention_softcap": 5.0,
    "logit_softcap": 3.0,
    "scale_embedding": True,
    "sliding_window": 3,
    "attention_bias": "qkv",
    "vocab_size": 43,
}
MODELS = {
    "like GPT-2": (TWO, {"changes": GPT_2}),
    "like GPT-2, over four": (FOUR, {"changes": GPT_2}),
    "like GPT-2, along the tokens": (ALONG_TOKENS, {"changes": GPT_2}),
    "like Gemma, over four": (FOUR, {"changes": GEMMA, "objective": "Smooth"}),
    "parallel layers, along the tokens": (ALONG_TOKENS, {"changes": {"parallel_residual": True, "vocab_size": 41}}),
    "encoder": (FOUR, {"model": "encoder", "objective": "Smooth"}),
    "encoder, along the tokens": (ALONG_TOKENS, {"model": "encoder", "changes": {"norm_placement": "after"}}),
    "T5": (FOUR, {"model": "encoder_decoder"}),
    "BART": (
        TWO,
        {
            "model": "encoder_decoder",
            "changes": {
                "positions": "learned",
                "bias": True,
                "gated": False,
                "norm": "layernorm",
                "norm_placement": "after",
                "normalize_embedding": True,
                "tie_word_embeddings": True,
                "final_logits_bias": True,
            },
        },
    ),
    "XLNet": (FOUR, {"model": "two_stream"}),
    "losses one by one": (TWO, {"objective": "OneByOne", "changes": {"vocab_size": 41, "logit_softcap": 2.0}}),
    "scores": (TWO, {"objective": "Scored", "changes": {"vocab_size": 41, "logit_softcap": 2.0}}),
    "scores of an encoder": (TWO, {"model": "encoder", "objective": "Scored"}),
    "scores of XLNet": (TWO, {"model": "two_stream", "objective": "Smooth", "changes": {"tie_word_embeddings": False}}),
}


@pytest.mark.parametrize("name", cases(MODELS, ["like GPT-2", "like Gemma, over four", "T5", "XLNet"]))
def test_every_model_and_loss_is_that_of_one_process(processes, alone, name):
    layout, given = MODELS[name]
    check(processes, alone, layout, **given)


LORA = {"kind": "lora", "rank": 3}
EVERYWHERE = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj", "embed_tokens")
ADAPTERS = {
    "LoRA": (TWO, {"adapter": LORA}),
    "LoRA of all layers, with biases": (FOUR, {"adapter": LORA | {"target_modules": EVERYWHERE}, "changes": GPT_2}),
    "LoRA, along the tokens": (ALONG_TOKENS, {"adapter": LORA, "changes": GPT_2}),
    "LoRA of an embedding by itself": (
        TWO,
        {"adapter": LORA | {"target_modules": ["embed_tokens"]}, "changes": {"tie_word_embeddings": False}},
    ),
    "DoRA": (TWO, {"adapter": LORA | {"magnitude": True, "target_modules": ["q_proj", "up_proj"]}, "changes": GPT_2}),
    "LoRA of an encoder": (TWO, {"adapter": LORA, "model": "encoder"}),
    "LoRA of an encoder-decoder": (TWO, {"adapter": LORA, "model": "encoder_decoder"}),
    "LoRA of XLNet": (TWO, {"adapter": LORA, "model": "two_stream"}),
    "prefix": (TWO, {"adapter": {"kind": "prefix", "num_virtual_tokens": 3}}),
    "prefix of a network": (
        FOUR,
        {"adapter": {"kind": "prefix", "num_virtual_tokens": 3, "hidden_size": 5}, "changes": GPT_2},
    ),
    "prefix of T5": (TWO, {"adapter": {"kind": "prefix", "num_virtual_tokens": 3}, "model": "encoder_decoder"}),
    "prefix, along the tokens": (ALONG_TOKENS, {"adapter": {"kind": "prefix", "num_virtual_tokens": 3}}),
    "prompt": (TWO, {"adapter": {"kind": "prompt", "num_virtual_tokens": 3}}),
}


@pytest.mark.parametrize("name", cases(ADAPTERS, ["LoRA", "DoRA", "prefix", "prompt"]))
def test_every_adapter_is_that_of_one_process(processes, alone, name):
    layout, given = ADAPTERS[name]
    room = {"max_position_embeddings": 24} if given["adapter"]["kind"] == "prefix" else {}
    check(processes, alone, layout, **given | {"changes": given.get("changes", {}) | room})


def test_of_tokens_that_score_alike_the_first_counts_wherever_it_is(processes, alone):
    for alike in ([7, 25, 30], [25, 30]):
        given = {"model": "encoder", "changes": {"alike": alike, "tie_word_embeddings": False}, "rows": 16, "steps": 1}
        assert alone(**given)[0]["correct"] > 0
        check(processes, alone, TWO, **given)


def test_dropout_is_that_of_whole_rows_when_tokens_are_dealt(processes):
    given = {"steps": 2, "changes": {**GPT_2, "dropout": 0.3, "zero_init_outputs": False}}
    whole = processes.run("curve", 2, mesh=TWO[1], **given)
    dealt = processes.run("curve", 2, mesh=ALONG_TOKENS[1], **given)
    for (found, _), (expected, _) in zip(dealt, whole, strict=True):
        assert found["losses"] == pytest.approx(expected["losses"], rel=1e-10)
        assert found["norms"] == pytest.approx(expected["norms"], rel=1e-10)
    assert assembled(dealt).keys() == assembled(whole).keys()


def cut(module, table, **axes):
    """A model cut for the first process of a mesh, of which there are no others."""
    config = MeshConfig(**axes)
    return cut_up(module, Mesh(sizes_of(config, config.tensor), 0, config), table)


def in_4_bits(module):
    """The model with a layer that says that it is in 4 bits."""
    module.model.layers[0].mlp.up_proj.__class__ = NormalFloatLinear
    return module


REFUSED = {
    "too few heads": (
        {"num_key_value_heads": 2},
        {"tensor": 4},
        r"4 parts do not divide num_key_value_heads \(2\)",
        "tensor = 2",
    ),
    "uneven heads": (
        {"num_attention_heads": 6, "num_key_value_heads": 6},
        {"tensor": 4},
        r"4 parts do not divide num_attention_heads \(6\)",
        "tensor = 3",
    ),
    "uneven inside": (
        {"intermediate_size": 23},
        {"tensor": 2},
        r"2 parts do not divide intermediate_size \(23\)",
        "tensor = 1",
    ),
    "norms of all heads": ({"qk_norm": "width"}, {"tensor": 2}, "normalises all heads", "tensor = 1"),
    "dropped layers": (
        {"layer_drop": 0.1},
        {"tensor": 2, "sequence_parallel": True},
        "layer_drop",
        "sequence_parallel = false",
    ),
    "two stacks": (
        {"model": "encoder_decoder"},
        {"tensor": 2, "sequence_parallel": True},
        "more than one stream",
        "sequence_parallel = false",
    ),
    "two streams": (
        {"model": "two_stream"},
        {"tensor": 2, "sequence_parallel": True},
        "more than one stream",
        "sequence_parallel = false",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_cut_is_refused_with_what_can(case):
    changes, mesh, why, remedy = REFUSED[case]
    module, table = built(**{"model": "decoder"} | changes)
    before = {name: weight.shape for name, weight in module.named_parameters()}
    with pytest.raises(ConfigError, match=why) as raised:
        cut(module, table, **mesh)
    assert remedy in raised.value.remedy
    assert {name: weight.shape for name, weight in module.named_parameters()} == before


def test_models_that_nobody_can_cut_are_refused():
    module, table = built("decoder")
    with pytest.raises(ConfigError, match="nothing says how"):
        cut(module, FOREIGN.sharding, tensor=2)
    with pytest.raises(ConfigError, match="4 bits"):
        cut(in_4_bits(module), table, tensor=2)


@pytest.mark.parametrize("target", ["o_proj", "embed_tokens"])
def test_magnitudes_of_what_several_hold_are_refused(target):
    adapter = {"kind": "lora", "magnitude": True, "target_modules": [target]}
    with pytest.raises(ConfigError, match=f"{target} has magnitudes"):
        built("decoder", adapter=adapter, tie_word_embeddings=False)


def test_rows_that_are_not_parts_of_one_length_are_refused(processes):
    changes = {"num_attention_heads": 3, "num_key_value_heads": 3}
    mesh = {"tensor": 3, "sequence_parallel": True}
    for facts, _ in processes.run("refused", 3, mesh=mesh, changes=changes):
        assert "16 tokens are not 3 parts" in facts["said"] and facts["path"] == "mesh.sequence_parallel"
