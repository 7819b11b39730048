"""Our decoder against transformers' Llama, Qwen3 and GPT-2, built from configuration with random weights."""

import warnings
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from preceptor.models.decoder import Decoder, DecoderConfig, build
from preceptor.models.interchange import load_model, save_model
from preceptor.nn.inputs import Inputs

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "zero_init_outputs": False,
    "initializer_range": 0.2,
}
GPT2 = {
    "norm": "layernorm",
    "positions": "learned",
    "gated": False,
    "attention_bias": "all",
    "mlp_bias": True,
    "hidden_act": "gelu_new",
    "num_key_value_heads": 4,
    "norm_eps": 1e-5,
}
SHAPES = {
    "llama": DecoderConfig(**SMALL, qk_norm="none"),
    "llama-untied": DecoderConfig(**SMALL, qk_norm="none", tie_word_embeddings=False),
    "qwen3": DecoderConfig(**SMALL, qk_norm="head"),
    "qwen3-relu2": DecoderConfig(**SMALL, qk_norm="head", hidden_act="relu2"),
    "gpt2": DecoderConfig(**{**SMALL, **GPT2}, qk_norm="none"),
}


def randomised(config: DecoderConfig) -> Decoder:
    """A decoder none of whose weights is at a value that hides a mistake, such as a gain of one."""
    model = build(config, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def transformers_model(folder: Path) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.fixture(params=SHAPES, scope="module")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Decoder, torch.nn.Module, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    ours = randomised(SHAPES[request.param])
    save_model(ours, folder, end_of_text_id=0)
    return ours, transformers_model(folder), folder


def tokens(rows: int = 3, length: int = 21) -> torch.Tensor:
    return torch.randint(0, SMALL["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(3))


def test_transformers_reads_what_we_save_and_gives_the_same_logits(pair):
    ours, theirs, _ = pair
    torch.testing.assert_close(ours.logits(tokens()), theirs(tokens()).logits.detach(), **TOLERANCE)


def test_no_weight_is_left_at_transformers_own_start(pair):
    ours, theirs, _ = pair
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_loss_and_gradients_are_those_of_transformers(pair):
    ours, theirs, _ = pair
    ids = tokens()
    labels = torch.cat((ids[:, 1:], torch.full((3, 1), -100)), dim=1)
    labels[0, :5] = -100
    loss, _, count = ours.loss_sum(Inputs(ids), labels)
    ours.zero_grad()
    (loss / count).backward()
    theirs.zero_grad()
    expected = F.cross_entropy(theirs(ids).logits.flatten(0, 1), labels.flatten())
    expected.backward()
    assert count == int((labels != -100).sum())
    torch.testing.assert_close(loss / count, expected, **TOLERANCE)
    ours_embedding, theirs_embedding = ours.model.embed_tokens.weight.grad, theirs.get_input_embeddings().weight.grad
    torch.testing.assert_close(ours_embedding, theirs_embedding, **TOLERANCE)
    if ours.config.positions == "rotary":
        gradients = dict(theirs.named_parameters())
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name].grad, **TOLERANCE)


def test_load_of_save_is_the_identity(pair):
    ours, _, folder = pair
    again = load_model(folder)
    assert again.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_what_transformers_saves_loads_here(pair, tmp_path):
    ours, theirs, _ = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(tmp_path)
    torch.testing.assert_close(load_model(tmp_path).logits(tokens()), ours.logits(tokens()), rtol=0, atol=0)


def test_the_cache_gives_the_logits_of_the_whole_text(pair):
    ours, _, _ = pair
    ids, lengths = tokens(), torch.tensor([9, 4, 7])
    cache = ours.new_cache(3, 21)
    stepped = [ours.step(ids[:, :9], cache, lengths)]
    for extra in range(6):
        column = torch.stack([ids[row, lengths[row] + extra] for row in range(3)]).unsqueeze(1)
        stepped.append(ours.step(column, cache))
    whole = ours.logits(ids)
    for extra, logits_BV in enumerate(stepped):
        expected = torch.stack([whole[row, lengths[row] - 1 + extra] for row in range(3)])
        torch.testing.assert_close(logits_BV, expected, **TOLERANCE)
