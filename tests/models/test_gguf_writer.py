"""GGUF files that we write, against our own reading of them and transformers'."""

import json
from dataclasses import replace

import pytest
import tokenizers
import torch
from gguf_samples import FUZZ, MODELS, SHAPE, TEXT, in_transformers, write_byte_level, write_model

from preceptor.core.errors import ArtifactError
from preceptor.models.decoder import Decoder
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder import Encoder
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.gguf import read_gguf
from preceptor.models.gguf_vocabulary import vocabulary
from preceptor.models.gguf_writer import write_gguf
from preceptor.models.interchange import gguf_model
from preceptor.nn.rope_scaling import RopeScaling
from preceptor.tokenizer.chat import DEFAULT_TEMPLATE, encode_prompt
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train

KNOWN = [name for name in MODELS if name != "llama-biased"]


def tokens():
    return torch.randint(0, SHAPE["vocab_size"], (2, 40), generator=torch.Generator().manual_seed(9))


@pytest.fixture
def small(tmp_path):
    """Makes a model of a configuration, and one tokenizer for all."""
    tokenizer = train([TEXT], TokenizerConfig(vocab_size=300), tmp_path)
    shape = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}

    def made(**more):
        torch.manual_seed(4)
        config = DecoderConfig(**{**shape, "initializer_range": 0.2, "zero_init_outputs": False, **more})
        return Decoder(config).eval(), tokenizer

    return made


@pytest.mark.parametrize("name", KNOWN)
def test_what_was_written_is_read_as_the_same_model_with_the_same_ids(tmp_path, name):
    first = read_gguf(write_model(tmp_path / "first.gguf", name))
    model, tokenizer = gguf_model(first), first.tokenizer()
    counts = write_gguf(model, tokenizer, tmp_path / "second.gguf", "F32")
    second = read_gguf(tmp_path / "second.gguf")
    assert counts == {"F32": len(second.quantisations)}
    torch.testing.assert_close(gguf_model(second).logits(tokens()), model.logits(tokens()), rtol=1e-5, atol=1e-5)
    again = second.tokenizer()
    for text in (TEXT, "".join(FUZZ)):
        assert again.encode(text) == tokenizer.encode(text)
    assert (again.chat_template, again.end_of_text) == (tokenizer.chat_template, tokenizer.end_of_text)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "gpt2"])
def test_transformers_reads_the_same_from_it_as_from_the_file_of_a_converter(tmp_path, name):
    """What it takes for granted, such as the window of gemma3, it takes for granted of both."""
    first = read_gguf(write_model(tmp_path / "first.gguf", name))
    write_gguf(gguf_model(first), first.tokenizer(), tmp_path / "second.gguf", "F32")
    one, two = (
        in_transformers("AutoModelForCausalLM.from_pretrained", tmp_path, gguf_file=f"{n}.gguf", dtype=torch.float32)
        for n in ("first", "second")
    )
    with torch.no_grad():
        torch.testing.assert_close(one.eval()(tokens()).logits, two.eval()(tokens()).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "bound"), [("F16", 0.05), ("Q8_0", 1.0), ("Q4_0", 6.0)])
def test_fewer_bits_change_the_logits_a_little(tmp_path, kind, bound):
    first = read_gguf(write_model(tmp_path / "first.gguf", "qwen3"))
    model = gguf_model(first)
    write_gguf(model, first.tokenizer(), tmp_path / "second.gguf", kind)
    second = read_gguf(tmp_path / "second.gguf")
    assert kind in second.quantisations.values()
    assert (second.quantisations["model.embed_tokens.weight"] == "Q8_0") == (kind != "F16")
    difference = (gguf_model(second).logits(tokens()) - model.logits(tokens())).abs().max()
    assert 0 < difference < bound


def test_rows_that_are_no_whole_blocks_are_stored_in_16_bits(tmp_path, small):
    model, tokenizer = small(intermediate_size=72)
    assert write_gguf(model, tokenizer, tmp_path / "a.gguf", "Q8_0")["F16"] == 2
    assert read_gguf(tmp_path / "a.gguf").quantisations["model.layers.0.mlp.down_proj.weight"] == "F16"


@pytest.mark.parametrize(
    "scaling",
    [RopeScaling(rope_type="linear", factor=2.5), RopeScaling(rope_type="llama3", factor=8.0, low_freq_factor=1.0)],
)
def test_stretched_positions_are_said(tmp_path, small, scaling):
    model, tokenizer = small(rope_scaling=scaling, qk_norm="none", rope_theta=5000.0)
    write_gguf(model, tokenizer, tmp_path / "a.gguf", "F32")
    again = gguf_model(read_gguf(tmp_path / "a.gguf"))
    assert again.config.rope_scaling == scaling
    ids = torch.arange(40)[None]
    torch.testing.assert_close(again.logits(ids), model.logits(ids), rtol=1e-5, atol=1e-5)


def test_what_gguf_has_no_place_for_is_refused(tmp_path, small):
    model, tokenizer = small(sliding_window=8, qk_norm="none")
    with pytest.raises(ArtifactError, match="no place for models of type mistral"):
        write_gguf(model, tokenizer, tmp_path / "a.gguf")
    model, tokenizer = small(
        norm_offset=True, scale_embedding=True, norm_placement="both", sliding_window=8, full_attention_every=3
    )
    model.config = replace(model.config, qk_norm="none")
    with pytest.raises(ArtifactError, match=r"tensor .*norm|full_attention_every"):
        write_gguf(model, tokenizer, tmp_path / "b.gguf")
    encoder = Encoder(EncoderConfig(vocab_size=300, hidden_size=32, num_attention_heads=2, num_hidden_layers=1))
    with pytest.raises(ArtifactError, match="no place for models of type"):
        write_gguf(encoder, tokenizer, tmp_path / "c.gguf")


@pytest.mark.parametrize("kind", ["byte-bpe", "sentencepiece-bpe"])
def test_tokenizers_that_we_train_have_the_same_ids_and_chat(tmp_path, kind):
    tokenizer = train([TEXT], TokenizerConfig(kind=kind, vocab_size=340), tmp_path)
    model = Decoder(DecoderConfig(vocab_size=352, hidden_size=32, num_hidden_layers=1)).eval()
    write_gguf(model, tokenizer, tmp_path / "a.gguf", "F32")
    again = read_gguf(tmp_path / "a.gguf").tokenizer()
    for text in (TEXT, "".join(FUZZ), "  two  spaces ", "<|user|> is a word"):
        assert again.encode(text) == tokenizer.encode(text)
        assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert again.chat_template == DEFAULT_TEMPLATE
    assert encode_prompt(again, "Is it so?") == encode_prompt(tokenizer, "Is it so?")


@pytest.mark.parametrize("rule", ["llama-bpe", "qwen2", "smollm"])
@pytest.mark.parametrize("bos", [False, True])
def test_the_rule_by_which_text_is_cut_is_found(tmp_path, rule, bos):
    first = read_gguf(write_model(tmp_path / "a.gguf", "llama", tokenizer=lambda w: write_byte_level(w, rule, bos)))
    said = vocabulary(first.tokenizer(), SHAPE["vocab_size"], [TEXT, "".join(FUZZ)])
    assert said["tokenizer.ggml.pre"] != "gpt-2" and said["tokenizer.ggml.add_bos_token"] == bos
    write_gguf(gguf_model(first), first.tokenizer(), tmp_path / "b.gguf", "F32")
    one, two = (tokenizers.Tokenizer.from_str(read_gguf(tmp_path / f"{n}.gguf").tokenizer_json) for n in "ab")
    for text in (TEXT, "".join(FUZZ), "12345 1e5"):
        assert one.encode(text).ids == two.encode(text).ids


def test_tokenizers_that_gguf_cannot_say_are_refused(tmp_path):
    tokenizer = train([TEXT], TokenizerConfig(kind="word", vocab_size=60), tmp_path)
    with pytest.raises(ArtifactError, match="of the kind WordLevel"):
        vocabulary(tokenizer, 60)
    tokenizer = train([TEXT], TokenizerConfig(vocab_size=300), tmp_path)
    with pytest.raises(ArtifactError, match="300 tokens, and the model 299 embeddings"):
        vocabulary(tokenizer, 299)
    table = json.loads(tokenizer.definition)
    table["pre_tokenizer"] = {"type": "Whitespace"}
    odd = type(tokenizer)(json.dumps(table))
    with pytest.raises(ArtifactError, match="none of the rules"):
        vocabulary(odd, 300)
