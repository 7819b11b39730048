"""Our decoder against transformers', for every architecture, built from configuration with random weights."""

import warnings
from pathlib import Path

import pytest
import torch
from oracle import TOLERANCE, assert_same_gradients, randomise, save_pretrained, transformers_model
from torch.nn import functional as F

from preceptor.models.decoder import Decoder, build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.interchange import architecture_of, load_decoder, save_model
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.nn.rope_scaling import RopeScaling

VOCAB_SIZE = 97
SMALL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "zero_init_outputs": False,
    "initializer_range": 0.2,
    "qk_norm": "none",
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
NEOX = GPT2 | {
    "positions": "rotary",
    "rotary_fraction": 0.5,
    "parallel_residual": True,
    "hidden_act": "gelu",
    "tie_word_embeddings": False,
}
GEMMA = {
    "norm_offset": True,
    "scale_embedding": True,
    "hidden_act": "gelu_pytorch_tanh",
    "head_dim": 16,
}
GEMMA2 = GEMMA | {
    "norm_placement": "both",
    "attention_scale": 24**-0.5,
    "attention_softcap": 5.0,
    "logit_softcap": 3.0,
    "sliding_window": 6,
    "full_attention_every": 2,
}
GEMMA3 = GEMMA2 | {
    "attention_softcap": 0.0,
    "logit_softcap": 0.0,
    "qk_norm": "head",
    "rope_theta": 1e6,
    "rope_theta_local": 1e3,
    "full_attention_every": 3,
}
LLAMA3 = RopeScaling(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)
SHAPES = {
    "llama": ("llama", {}),
    "llama untied": ("llama", {"tie_word_embeddings": False}),
    "llama 3, slowed rotation": ("llama", {"rope_scaling": LLAMA3, "rope_theta": 5e5}),
    "llama, linear scaling": ("llama", {"rope_scaling": RopeScaling(rope_type="linear", factor=2.0)}),
    "mistral": ("mistral", {"sliding_window": 5}),
    "qwen2": ("qwen2", {"attention_bias": "qkv"}),
    "qwen3": ("qwen3", {"qk_norm": "head"}),
    "qwen3, squared relu": ("qwen3", {"qk_norm": "head", "hidden_act": "relu2"}),
    "olmo2": ("olmo2", {"qk_norm": "width", "norm_placement": "after", "tie_word_embeddings": False}),
    "gpt2": ("gpt2", GPT2),
    "gpt_neox": ("gpt_neox", NEOX),
    "gpt_neox, one after the other": ("gpt_neox", NEOX | {"parallel_residual": False, "rotary_fraction": 1.0}),
    "gemma": ("gemma", GEMMA),
    "gemma2": ("gemma2", GEMMA2),
    "gemma3": ("gemma3_text", GEMMA3),
}
Pair = tuple[Decoder, torch.nn.Module, Path]


@pytest.fixture(params=SHAPES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    model_type, fields = SHAPES[request.param]
    config = DecoderConfig(**{**SMALL, **fields})
    assert architecture_of(config).model_type == model_type
    folder = tmp_path_factory.mktemp("model")
    ours = randomise(build(config, torch.Generator().manual_seed(1)))
    save_model(ours, folder, end_of_text_id=0)
    return ours, transformers_model(folder), folder


def tokens(rows: int = 3, length: int = 21, seed: int = 3) -> torch.Tensor:
    return torch.randint(1, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(seed))


def compare(ours: Decoder, theirs: torch.nn.Module, inputs: Inputs, labels: torch.Tensor, **more: torch.Tensor) -> None:
    """The loss over the labels and every gradient of it; ``more`` is what transformers is given beside the tokens."""
    loss, _, count = ours.loss_sum(inputs, labels)
    ours.zero_grad()
    (loss / count).backward()
    theirs.zero_grad()
    expected = F.cross_entropy(theirs(inputs.tokens_BT, **more).logits.flatten(0, 1), labels.flatten())
    expected.backward()
    assert count == int((labels != IGNORED).sum())
    torch.testing.assert_close(loss / count, expected, **TOLERANCE)
    assert_same_gradients(ours, theirs)


def next_tokens(ids: torch.Tensor) -> torch.Tensor:
    return torch.cat((ids[:, 1:], torch.full((len(ids), 1), IGNORED)), dim=1)


def test_transformers_reads_what_we_save_and_gives_the_same_logits(pair):
    ours, theirs, _ = pair
    torch.testing.assert_close(ours.logits(tokens()), theirs(tokens()).logits.detach(), **TOLERANCE)


def test_no_weight_is_left_at_transformers_own_start(pair):
    ours, theirs, _ = pair
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_loss_and_every_gradient_are_those_of_transformers(pair):
    ours, theirs, _ = pair
    labels = next_tokens(tokens())
    labels[0, :5] = IGNORED
    compare(ours, theirs, Inputs(tokens()), labels)


def test_padding_changes_nothing(pair):
    ours, theirs, _ = pair
    ids, lengths = tokens(), torch.tensor([[21], [13], [8]])
    real = torch.arange(21) < lengths
    labels = next_tokens(ids).masked_fill(torch.arange(21) >= lengths - 1, IGNORED)
    inputs = Inputs(ids, None, torch.where(real, 0, -1))
    given = theirs(ids, attention_mask=real.long()).logits.detach()
    torch.testing.assert_close(ours(inputs).detach()[real], given[real], **TOLERANCE)
    compare(ours, theirs, inputs, labels, attention_mask=real.long())


def test_packed_documents_are_as_if_alone(pair):
    """Three documents in one row against transformers' reading of each by itself, in a batch with padding."""
    ours, theirs, _ = pair
    lengths = [9, 4, 8]
    ids = tokens(1, 21)
    places = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    segments = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths)).unsqueeze(0)
    alone, mask, labels = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long), []
    padded_labels = torch.full((3, 9), IGNORED)
    for row, part in enumerate(ids[0].split(lengths)):
        alone[row, : len(part)], mask[row, : len(part)] = part, 1
        labels.append(next_tokens(part.unsqueeze(0)))
        padded_labels[row, : len(part)] = labels[-1][0]
    inputs = Inputs(ids, places, segments)
    expected = theirs(alone, attention_mask=mask).logits.detach()[mask.bool()]
    torch.testing.assert_close(ours(inputs).detach()[0], expected, **TOLERANCE)
    loss, _, count = ours.loss_sum(inputs, torch.cat(labels, dim=1))
    ours.zero_grad()
    (loss / count).backward()
    theirs.zero_grad()
    logits = theirs(alone, attention_mask=mask).logits
    F.cross_entropy(logits.flatten(0, 1), padded_labels.flatten()).backward()
    assert_same_gradients(ours, theirs)


def test_load_of_save_is_the_identity(pair):
    ours, _, folder = pair
    again = load_decoder(folder)
    assert again.config == ours.config or architecture_of(again.config) is architecture_of(ours.config)
    assert again.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_what_transformers_saves_loads_here_bit_for_bit(pair, tmp_path):
    ours, theirs, _ = pair
    save_pretrained(theirs, tmp_path)
    again = load_decoder(tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())
    assert torch.equal(again.logits(tokens()), ours.logits(tokens()))


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


def test_greedy_generation_is_token_identical(pair):
    ours, theirs, _ = pair
    prompt = tokens(2, 7)
    cache = ours.new_cache(2, 40)
    logits, said = ours.step(prompt, cache), []
    for _ in range(25):
        said.append(logits.argmax(-1))
        logits = ours.step(said[-1].unsqueeze(1), cache)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=25,
            min_new_tokens=25,
            do_sample=False,
            eos_token_id=VOCAB_SIZE + 1,
            pad_token_id=0,
        )
    assert torch.equal(torch.stack(said, dim=1), expected[:, 7:])
