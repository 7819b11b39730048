import pytest
import torch
from processes import assembled

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
    facts, gradients = alone(**given)
    answers = processes.run("curve", world, mesh=mesh, **given)
    for found, _ in answers:
        assert found["losses"] == pytest.approx(facts["losses"], rel=1e-10)
        assert found["norms"] == pytest.approx(facts["norms"], rel=1e-10)
        assert (found["tokens"], found["correct"]) == (facts["tokens"], facts["correct"])
        assert found["evaluated"] == pytest.approx(facts["evaluated"], rel=1e-10)
    whole = assembled(answers)
    assert whole.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            whole[name], gradient, rtol=1e-10, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}"
        )
    return answers


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("layout", LAYOUTS)
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


@pytest.mark.parametrize("name", MODELS)
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


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_is_that_of_one_process(processes, alone, name):
    layout, given = ADAPTERS[name]
    room = {"max_position_embeddings": 24} if given["adapter"]["kind"] == "prefix" else {}
    check(processes, alone, layout, **given | {"changes": given.get("changes", {}) | room})
