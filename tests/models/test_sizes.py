"""Named sizes against transformers, which builds each of them without memory for its weights and counts."""

import re

import pytest
import torch
import transformers

from preceptor.core.errors import ConfigError
from preceptor.models.sizes import NAMED_SIZES, named, names

HEADS = {
    "decoder": transformers.AutoModelForCausalLM,
    "two_stream": transformers.AutoModelForCausalLM,
    "encoder": transformers.AutoModelForMaskedLM,
    "encoder_decoder": transformers.AutoModelForSeq2SeqLM,
}
UNITS = {"": 1, "M": 10**6, "B": 10**9}
REWRITTEN = {"rope_theta", "rope_scaling", "rotary_pct"}  # transformers gathers these under rope_parameters


def counted(size):
    """Parameters that training moves, by transformers' own count."""
    config = transformers.AutoConfig.for_model(size.model_type, **size.config)
    with torch.device("meta"):
        model = HEADS[size.family].from_config(config)
    count = model.num_parameters(only_trainable=True)
    if size.model_type == "t5" and not size.config["tie_word_embeddings"] and config.tie_word_embeddings:
        # transformers 5 ties every new T5; the published 1.1 has an output layer of its own
        count += model.get_output_embeddings().weight.numel()
    return count


def agrees(count, published):
    """Whether a count rounds to the published figure; zeros at the end of a whole number are no digits of it."""
    digits, unit = re.fullmatch(r"([\d,.]+)([MB]?)", published).groups()
    digits = digits.replace(",", "")
    after = digits.partition(".")[2]
    zeros = 0 if after or not unit else len(digits) - len(digits.rstrip("0"))
    step = UNITS[unit] * 10**zeros / 10 ** len(after)
    return round(count / step) == round(float(digits) * UNITS[unit] / step)


@pytest.mark.parametrize("name", NAMED_SIZES)
def test_the_count_is_transformers_count_to_the_digit(name):
    assert counted(NAMED_SIZES[name]) == NAMED_SIZES[name].num_parameters


@pytest.mark.parametrize("name", NAMED_SIZES)
def test_transformers_knows_every_key(name):
    """A misspelt key would be kept as it is and change nothing, so its default must be there without it."""
    size = NAMED_SIZES[name]
    bare = transformers.AutoConfig.for_model(size.model_type)
    built = transformers.AutoConfig.for_model(size.model_type, **size.config)
    for key in size.config.keys() - REWRITTEN:
        assert hasattr(bare, key)
        assert getattr(built, key) == size.config[key] or (size.model_type, key) == ("t5", "tie_word_embeddings")


@pytest.mark.parametrize("name", NAMED_SIZES)
def test_the_count_rounds_to_the_published_figure_or_the_note_says_why_not(name):
    size = NAMED_SIZES[name]
    assert agrees(size.num_parameters, size.published) == size.agrees
    assert size.agrees or size.note
    assert size.source
    # what was published may count otherwise, but speaks of the same model
    digits, unit = re.fullmatch(r"([\d,.]+)([MB]?)", size.published).groups()
    assert abs(size.num_parameters / (float(digits.replace(",", "")) * UNITS[unit]) - 1) < 0.09 or size.agrees


def test_rounding_is_to_the_published_digits():
    assert agrees(124_439_808, "124M") and not agrees(124_500_001, "124M")
    assert agrees(1_440_000_000, "1.4B") and not agrees(1_460_000_000, "1.4B")
    assert agrees(222_903_552, "220M") and not agrees(225_100_000, "220M")
    assert agrees(70_426_624, "70,426,624") and not agrees(70_426_625, "70,426,624")
    assert not agrees(174_604_259_328, "175.0B") and agrees(174_604_259_328, "175B")
    assert agrees(162_322_940, "162,322,940") and not agrees(162_322_944, "162,322,940")


def test_the_figures_that_do_not_agree_are_these():
    assert {name for name, size in NAMED_SIZES.items() if not size.agrees} == {
        *("gpt3-350m", "gpt3-13b", "gpt3-175b", "llama-65b", "llama-3.2-1b", "qwen2-7b", "qwen2-72b", "olmo-2-13b"),
        *("bert-large-cased", "distilbert-base", "modernbert-base", "modernbert-large"),
        *("xlnet-base-cased", "xlnet-large-cased", "t5-large", "t5-3b", "transformer-base", "transformer-big"),
    }


@pytest.mark.parametrize("name", [name for name, size in NAMED_SIZES.items() if "leaves out the head" in size.note])
def test_without_the_head_the_count_is_the_published_one(name):
    size = NAMED_SIZES[name]
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(size.model_type, **size.config))
    assert agrees(model.num_parameters(), size.published)


def test_every_family_has_sizes_and_no_name_comes_twice():
    assert [len(names(family)) for family in HEADS] == [52, 2, 9, 14]
    assert names() == list(NAMED_SIZES) and len(names()) == 77
    for name in names():
        assert named(name).name == name == name.lower() and named(name.upper()) is NAMED_SIZES[name]


def test_a_wrong_name_is_told_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean .*gpt2-xl") as caught:
        named("gpt2-xxl")
    assert caught.value.nearest in names() and caught.value.remedy
    with pytest.raises(ConfigError, match="there are gpt2, gpt2-medium") as caught:
        named("?")
    assert caught.value.nearest == ""


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        named("gpt2").config["n_layer"] = 1
