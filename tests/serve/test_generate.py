"""Generation: the same alone and in a batch, reproducible, inside the context."""

import pytest
import torch

from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.serve.generate import generate, generate_many, truncate
from preceptor.serve.sampling import SamplingConfig

CONTEXT, VOCABULARY, END = 32, 48, 0
GREEDY = SamplingConfig(temperature=0, max_new_tokens=40)


@pytest.fixture(scope="module")
def model():
    config = DecoderConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=CONTEXT, zero_init_outputs=False,
        initializer_range=0.3,
    )  # fmt: skip
    return build(config, torch.Generator().manual_seed(5)).eval()


def prompts(lengths):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(1, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.parametrize("new", [5, 40])
@pytest.mark.parametrize("end", [END, 7, 13])
def test_a_greedy_answer_is_the_same_alone_and_in_a_batch_also_where_the_context_ends(model, new, end):
    config = SamplingConfig(temperature=0, max_new_tokens=new)
    asked = prompts([3, 24, 9, 1, 31, 60])
    alone = [list(generate(model, prompt, config, end)) for prompt in asked]
    assert generate_many(model, asked, config, end) == alone
    assert generate_many(model, asked, config, end, batch_size=2) == alone
    assert all(end not in answer and len(answer) <= new for answer in alone)


def test_the_cache_gives_what_reading_everything_again_gives(model):
    (prompt,) = prompts([6])
    read = list(prompt)
    for token in generate(model, prompt, SamplingConfig(temperature=0, max_new_tokens=12), END):
        assert token == int(model.logits(torch.tensor([read]))[0, -1].argmax())
        read.append(token)
    assert len(read) > 6


def test_an_answer_ends_where_the_context_does(model):
    config = SamplingConfig(temperature=0, max_new_tokens=400)
    answer = list(generate(model, prompts([10])[0], config, VOCABULARY))
    assert len(answer) == CONTEXT - 10 + 1


def test_the_seed_decides_and_the_global_generator_is_not_touched(model):
    (prompt,) = prompts([5])
    draw = lambda seed: list(generate(model, prompt, SamplingConfig(temperature=2.0, seed=seed), VOCABULARY))  # noqa: E731
    before = torch.get_rng_state()
    assert draw(3) == draw(3) != draw(4)
    assert torch.equal(before, torch.get_rng_state())


def test_only_the_likeliest_are_left():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    left = lambda k, p: truncate(logits, k, p).isfinite()[0].tolist()  # noqa: E731
    assert left(0, 1.0) == [True] * 4
    assert left(2, 1.0) == [True, True, False, False]
    assert left(0, 0.6) == [True, True, False, False]
    assert left(0, 0.01) == [True, False, False, False]
    assert left(1, 0.9) == [True, False, False, False]


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_new_tokens": 0}]
)
def test_values_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingConfig(**wrong)
