"""Parity: a model that says something else, or reads something else, than the trained one is told from it."""

import math

import pytest
import torch

from preceptor.core.errors import OutputError
from preceptor.models.decoder import Decoder
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder_decoder import EncoderDecoder
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.heads import HeadConfig, attach_head
from preceptor.recipes.parity import BOUNDS, BUILT_IN, Prompts, compare, read, require_same_ids
from preceptor.tokenizer.chat import DEFAULT_TEMPLATE
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train

TEXT = "The quick brown fox jumps over the lazy dog, and what is a question? " * 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train([TEXT], TokenizerConfig(vocab_size=300), tmp_path_factory.mktemp("tokenizer"))


def decoder(seed=3):
    torch.manual_seed(seed)
    return Decoder(
        DecoderConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, head_dim=16, zero_init_outputs=False)
    ).eval()


@pytest.fixture
def prompts(tokenizer):
    return Prompts.of(tokenizer, ["What is a fox?", "Is it lazy?"], ["The quick dog"], 64)


def test_figures_are_those_of_the_definition(tokenizer, prompts):
    one, two = decoder(), decoder()
    with torch.no_grad():
        two.model.norm.weight[3] += 1.5
    found = compare(read(one, prompts, tokenizer), read(two, prompts, tokenizer), "it", "4-bit")
    pairs = [[model.logits(torch.tensor([row]))[0] for model in (one, two)] for row in prompts.rows]
    logs = [[logits.double().log_softmax(-1) for logits in pair] for pair in pairs]
    num_tokens = sum(map(len, prompts.rows))
    expected = sum(float((p.exp() * (p - q)).sum()) for p, q in logs) / num_tokens
    assert found.tokens == num_tokens
    assert found.kl_per_token == pytest.approx(expected, rel=1e-3) and found.kl_per_token > 0
    assert found.max_logit_difference == pytest.approx(max(float((p - q).abs().max()) for p, q in pairs))
    assert 0 <= found.same_answers <= 1 and found.facts()["bound"]["kl_per_token"] == BOUNDS["4-bit"].kl_per_token


def test_the_same_model_agrees_in_all(tokenizer, prompts):
    found = compare(read(decoder(), prompts, tokenizer), read(decoder(), prompts, tokenizer), "it", "float32")
    assert (found.max_logit_difference, found.kl_per_token, found.same_tokens, found.same_answers) == (0, 0, 1, 1)


@pytest.mark.parametrize("format", list(BOUNDS))
def test_another_model_is_blocked_in_every_format(tokenizer, prompts, format):
    other = decoder(8)
    with torch.no_grad():
        other.model.embed_tokens.weight *= 8
    with pytest.raises(OutputError, match="blocked: it says something else"):
        compare(read(decoder(), prompts, tokenizer), read(other, prompts, tokenizer), "it", format)


def test_what_is_no_number_is_blocked(tokenizer, prompts):
    other = decoder()
    with torch.no_grad():
        other.model.norm.weight[0] = math.nan
    with pytest.raises(OutputError, match="blocked"):
        compare(read(decoder(), prompts, tokenizer), read(other, prompts, tokenizer), "it", "4-bit")


def test_heads_are_compared_too(tokenizer, prompts):
    one, two, bare = decoder(), decoder(), decoder()
    for model in (one, two):
        attach_head(model, "topic", HeadConfig(labels=("a", "b")))
    with torch.no_grad():
        two.heads["topic"].output.bias += 0.5
    with pytest.raises(OutputError, match=r"differ by up to 0\.5"):
        compare(read(one, prompts, tokenizer), read(two, prompts, tokenizer), "it", "float32")
    with pytest.raises(OutputError, match="other heads"):
        compare(read(one, prompts, tokenizer), read(bare, prompts, tokenizer), "it", "float32")


def test_models_that_read_a_source_are_compared(tokenizer, prompts):
    torch.manual_seed(1)
    model = EncoderDecoder(EncoderDecoderConfig(vocab_size=300, hidden_size=32, num_attention_heads=2)).eval()
    found = compare(read(model, prompts, tokenizer), read(model, prompts, tokenizer), "it", "float32")
    assert found.max_logit_difference == 0 and found.same_answers is None


def test_prompts_are_cut_to_the_context_and_built_in_where_there_are_none(tokenizer):
    prompts = Prompts.of(tokenizer, [], [], 9)
    assert prompts.texts == BUILT_IN and prompts.questions == BUILT_IN[:1] and max(map(len, prompts.rows)) == 8
    assert Prompts.of(tokenizer, [], [], 9, talks=False).questions == ()


def test_a_wrong_template_is_blocked(tokenizer, prompts):
    require_same_ids(prompts, tokenizer, tokenizer.with_template(DEFAULT_TEMPLATE))
    with pytest.raises(OutputError, match="gives other ids for 'What is a fox"):
        require_same_ids(prompts, tokenizer, tokenizer.with_template(DEFAULT_TEMPLATE.replace("<|user|>", "<|user|> ")))
    # Only what follows an answer is written otherwise.
    wrong = DEFAULT_TEMPLATE.replace("['content'] }}{{ eos_token }}", "['content'] }}")
    with pytest.raises(OutputError, match="for a conversation"):
        require_same_ids(prompts, tokenizer, tokenizer.with_template(wrong))


def test_a_tokenizer_with_other_merges_is_blocked(tokenizer, prompts, tmp_path):
    other = train(["dogs and foxes " * 50], TokenizerConfig(vocab_size=265), tmp_path)
    with pytest.raises(OutputError, match="gives other ids"):
        require_same_ids(prompts, tokenizer, other)
