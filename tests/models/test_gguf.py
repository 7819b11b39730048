"""Our reading of GGUF files against the models and tokenizers they were made of, and against transformers' reading."""

import io
import json
import random
import unicodedata
from functools import cache

import gguf
import numpy as np
import pytest
import sentencepiece
import tokenizers
import torch
from gguf_samples import (
    FUZZ,
    MODELS,
    READ_BY_TRANSFORMERS,
    SHAPE,
    SPECIAL,
    TEXT,
    byte_level,
    in_transformers,
    original,
    write_byte_level,
    write_model,
)
from safetensors.torch import save_file

from preceptor.core.errors import ArtifactError
from preceptor.models.gguf import read_gguf


def fuzzed(count=300):
    drawn = random.Random(3)
    return [TEXT, "", *("".join(drawn.choices(FUZZ, k=drawn.randint(1, 40))) for _ in range(count))]


def our_tokenizer(path):
    return tokenizers.Tokenizer.from_str(read_gguf(path).tokenizer_json)


def their_tokenizer(path):
    return in_transformers("AutoTokenizer.from_pretrained", path.parent, gguf_file=path.name)


def as_folder(found, folder):
    """Write what was read as transformers' own folder, and let transformers build the model."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(found.config))
    save_file(dict(found.tensors()), folder / "model.safetensors", metadata={"format": "pt"})
    kinds = {"dtype": torch.float32, "attn_implementation": "eager", "output_loading_info": True}
    return in_transformers(f"{found.config['architectures'][0]}.from_pretrained", folder, **kinds)


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_made_of_the_file_is_the_original_model(tmp_path, name):
    found = read_gguf(write_model(tmp_path / "model.gguf", name))
    model, report = as_folder(found, tmp_path / "folder")
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens_BT = torch.randint(0, SHAPE["vocab_size"], (2, 40), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens_BT).logits, original(name)(tokens_BT).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("gemma")])
def test_values_in_float32_come_back_bit_for_bit(tmp_path, name):
    found = dict(read_gguf(write_model(tmp_path / "model.gguf", name)).tensors())
    expected = original(name).state_dict()
    if name == "gptneox":
        expected["embed_out.weight"] = expected.pop("lm_head.weight")
    if original(name).config.tie_word_embeddings:
        del expected["lm_head.weight"]
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].is_contiguous() and torch.equal(found[key], tensor), key


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("name", READ_BY_TRANSFORMERS)
def test_values_are_those_that_transformers_reads(tmp_path, name, kind):
    path = write_model(tmp_path / "model.gguf", name, kind=kind)
    read = read_gguf(path)
    theirs = in_transformers("AutoModelForCausalLM.from_pretrained", tmp_path, gguf_file=path.name, dtype=torch.float32)
    expected = theirs.state_dict()
    ours = dict(read.tensors())
    if theirs.config.tie_word_embeddings:
        expected.pop("lm_head.weight")
    assert ours.keys() == expected.keys()
    for key, tensor in expected.items():
        assert ours[key].dtype == torch.float32 and torch.equal(ours[key], tensor), key
    assert set(read.quantisations.values()) == {"F32", kind}
    for key in ("vocab_size", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "model_type"):
        assert read.config[key] == getattr(theirs.config, key)


@pytest.mark.parametrize("rule", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
@pytest.mark.parametrize("bos", [False, True])
def test_ids_are_those_of_the_tokenizer_that_was_written(tmp_path, rule, bos):
    path = write_model(tmp_path / "model.gguf", "llama", tokenizer=lambda writer: write_byte_level(writer, rule, bos))
    ours, expected = our_tokenizer(path), byte_level(rule)
    first = [expected.token_to_id(SPECIAL[1])] if bos else []
    for text in [*fuzzed(), "a  1", "x <think>", "e\u0301"]:
        assert ours.encode(text).ids == first + expected.encode(text).ids, repr(text)
        assert ours.decode(ours.encode(text).ids) == expected.decode(expected.encode(text).ids)


@pytest.mark.parametrize("rule", ["gpt-2", "llama-bpe", "qwen2"])
@pytest.mark.parametrize("bos", [False, True])
def test_ids_are_those_that_transformers_reads(tmp_path, rule, bos):
    """For smollm it does not let the digits stand alone, and for qwen2 it leaves out the normal form."""
    path = write_model(tmp_path / "model.gguf", "llama", tokenizer=lambda writer: write_byte_level(writer, rule, bos))
    ours, theirs = our_tokenizer(path), their_tokenizer(path)
    for text in (unicodedata.normalize("NFC", text) for text in fuzzed()):
        assert ours.encode(text).ids == theirs(text)["input_ids"], repr(text)


@cache
def sentencepiece_model(prefix=True, own=()):
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=written,
        model_type="bpe",
        vocab_size=SHAPE["vocab_size"],
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        user_defined_symbols=list(own),
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


def write_sentencepiece(writer, prefix=True, own=()):
    model = sentencepiece_model(prefix, own)
    kinds = [
        (4, lambda number: model.id_to_piece(number) in own),
        (6, model.is_byte),
        (3, model.is_control),
        (2, model.is_unknown),
        (5, model.is_unused),
    ]
    ids = range(model.vocab_size())
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    pieces = [model.id_to_piece(number) for number in ids]
    writer.add_token_list([piece.replace("\u2581", " ") if piece in own else piece for piece in pieces])
    writer.add_add_space_prefix(prefix)
    writer.add_token_scores([model.get_score(number) for number in ids])
    writer.add_token_types([next((kind for kind, is_it in kinds if is_it(number)), 1) for number in ids])
    writer.add_bos_token_id(model.bos_id())
    writer.add_eos_token_id(model.eos_id())
    writer.add_unk_token_id(model.unk_id())


@pytest.mark.parametrize(("prefix", "own"), [(True, ()), (False, ()), (False, ("\u2581\u2581", "<turn>", "\n\n"))])
def test_ids_are_those_of_sentencepiece(tmp_path, prefix, own):
    """The last of them is how Gemma's is made."""
    path = write_model(tmp_path / "m.gguf", "llama", tokenizer=lambda writer: write_sentencepiece(writer, prefix, own))
    ours, model = our_tokenizer(path), sentencepiece_model(prefix, own)
    for text in (text for text in [*fuzzed(), "x  y   z<turn>\n\n\n"] if text):
        assert ours.encode(text).ids == [model.bos_id(), *model.encode(text)], repr(text)
        assert ours.decode(ours.encode(text).ids) == model.decode(model.encode(text))
    special = read_gguf(path).special
    assert (special.bos, special.eos, special.unk, special.pad) == (1, 2, 0, None)


def test_what_the_file_says_of_tokens_and_chat(tmp_path):
    found = read_gguf(write_model(tmp_path / "model.gguf", "llama"))
    special, tokenizer = found.special, byte_level("gpt-2")
    assert [special.pad, special.bos, special.eos] == [tokenizer.token_to_id(token) for token in SPECIAL]
    assert special.unk is None
    assert found.chat_template == "{% for message in messages %}{{ message.content }}{% endfor %}"
    assert found.config["rms_norm_eps"] == 1e-6  # as a person would write it, not as float32 rounds it


def test_a_llama_named_mistral_is_a_mistral(tmp_path):
    found = read_gguf(write_model(tmp_path / "model.gguf", "llama", title="Mistral 7B v0.3"))
    model, _ = as_folder(found, tmp_path / "folder")
    assert model.config.model_type == "mistral" and model.config.sliding_window is None
    tokens_BT = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens_BT).logits, original("llama")(tokens_BT).logits, rtol=1e-5, atol=1e-5)


def test_ways_to_stretch_positions(tmp_path):
    said = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5}
    assert read_gguf(write_model(tmp_path / "linear.gguf", "llama", says=said)).config["rope_scaling"] == {
        "rope_type": "linear",
        "factor": 2.5,
    }
    said = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    said["llama.rope.scaling.original_context_length"] = 16
    assert read_gguf(write_model(tmp_path / "yarn.gguf", "llama", says=said)).config["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    said = {"llama.rope.scaling.type": "longrope"}
    with pytest.raises(ArtifactError, match="longrope"):
        read_gguf(write_model(tmp_path / "other.gguf", "llama", says=said))


def test_the_stretched_positions_of_llama_3(tmp_path):
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = in_transformers("LlamaConfig", **{**SHAPE, "rope_theta": 5000.0, "rope_scaling": {**scaling}})
    plain = 5000.0 ** -(torch.arange(0, 16, 2) / 16)
    stretched, _ = in_transformers("modeling_rope_utils.ROPE_INIT_FUNCTIONS.get", "llama3")(config, "cpu")
    factors = (plain / stretched).numpy().astype(np.float32)
    found = read_gguf(write_model(tmp_path / "model.gguf", "llama", extra=[("rope_freqs.weight", factors)]))
    assert found.config["rope_scaling"] == scaling
    ones = [("rope_freqs.weight", np.ones(8, np.float32))]
    assert not read_gguf(write_model(tmp_path / "plain.gguf", "llama", extra=ones)).config.get("rope_scaling")
    wrong = [("rope_freqs.weight", factors[::-1].copy())]
    with pytest.raises(ArtifactError, match=r"Llama 3\.1"):
        read_gguf(write_model(tmp_path / "wrong.gguf", "llama", extra=wrong))


def test_not_a_gguf_file(tmp_path):
    path = tmp_path / "model.gguf"
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_gguf(path)
    for content in (b"", b"GG", b"PK\x03\x04 zip", json.dumps({"a": 1}).encode()):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="no GGUF file") as caught:
            read_gguf(path)
        assert caught.value.remedy
    path.write_bytes(b"GGUF" + (99).to_bytes(4, "little") + bytes(64))
    with pytest.raises(ArtifactError, match="99"):
        read_gguf(path)


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    whole = write_model(tmp_path / "model.gguf", "llama", kind="Q8_0").read_bytes()
    cut = tmp_path / "cut.gguf"
    drawn = random.Random(4)
    for length in [*range(5, 200), *drawn.sample(range(200, len(whole) - 64), 150), len(whole) - 64]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=f"cut short.*{length}") as caught:
            read_gguf(cut)
        assert caught.value.remedy


def test_a_damaged_head_of_a_file_never_ends_in_another_error(tmp_path):
    whole = bytearray(write_model(tmp_path / "model.gguf", "llama").read_bytes())
    damaged = tmp_path / "damaged.gguf"
    drawn = random.Random(6)
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        content[drawn.randrange(4, 9000)] ^= 1 << drawn.randrange(8)
        damaged.write_bytes(content)
        try:
            found = read_gguf(damaged)
            assert dict(found.tensors()) and found.tokenizer_json
        except ArtifactError as error:
            assert error.remedy
            refused += 1
    assert refused > 30


def test_a_tensor_that_is_missing_or_too_many(tmp_path):
    with pytest.raises(ArtifactError, match=r"lacks 1 tensors, such as blk\.1\.ffn_up\.weight"):
        read_gguf(write_model(tmp_path / "less.gguf", "llama", leave_out=["blk.1.ffn_up.weight"]))
    with pytest.raises(ArtifactError, match=r"lacks token_embd\.weight"):
        read_gguf(write_model(tmp_path / "none.gguf", "llama", leave_out=["token_embd.weight"]))
    with pytest.raises(ArtifactError, match=r"lacks 1 tensors, such as blk\.0\.attn_v\.bias"):
        read_gguf(write_model(tmp_path / "bias.gguf", "qwen2", leave_out=["blk.0.attn_v.bias"]))
    with pytest.raises(ArtifactError, match=r"blk\.0\.ffn_gate_inp\.weight"):
        extra = [("blk.0.ffn_gate_inp.weight", np.ones((2, 64), np.float32))]
        read_gguf(write_model(tmp_path / "more.gguf", "llama", extra=extra))


def test_an_architecture_that_is_not_known_is_named_beside_those_that_are(tmp_path):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "rwkv6")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ArtifactError, match="'rwkv6'") as caught:
        read_gguf(path)
    assert caught.value.remedy.endswith("gemma2, gemma3, gpt2, gptneox, llama, olmo2, qwen2, qwen3")


def test_models_that_only_share_the_name_of_an_architecture(tmp_path):
    with pytest.raises(ArtifactError, match="experts"):
        read_gguf(write_model(tmp_path / "experts.gguf", "llama", says={"llama.expert_count": 8}))
    with pytest.raises(ArtifactError, match="one of 3 parts"):
        read_gguf(write_model(tmp_path / "part.gguf", "llama", says={"split.count": 3}))


def retyped(path, tensor, number):
    """The file with another number for the way in which a tensor is stored."""
    data = bytearray(path.read_bytes())
    place = data.index(len(tensor).to_bytes(8, "little") + tensor.encode()) + 8 + len(tensor)
    num_dims = int.from_bytes(data[place : place + 4], "little")
    place += 4 + 8 * num_dims
    data[place : place + 4] = number.to_bytes(4, "little")
    path.write_bytes(data)
    return path


def test_a_quantisation_that_is_not_known(tmp_path):
    path = write_model(tmp_path / "model.gguf", "llama")
    with pytest.raises(ArtifactError, match="the quantisation 222") as caught:
        read_gguf(retyped(path, "blk.0.ffn_up.weight", 222))
    assert "Q8_0" in caught.value.remedy
    integers = read_gguf(retyped(path, "blk.0.ffn_up.weight", gguf.GGMLQuantizationType.I32.value))
    with pytest.raises(ArtifactError, match="is stored as I32") as caught:
        list(integers.tensors())
    assert "Q8_0" in caught.value.remedy


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("model", "bert", "'bert'"), ("pre", "seed-coder", "'seed-coder'"), ("token_type", [1, 1], "2 types")],
)
def test_a_tokenizer_that_is_not_known_does_not_hide_the_weights(tmp_path, key, value, said):
    def write(writer):
        write_byte_level(writer)
        writer.kv_data[0][f"tokenizer.ggml.{key}"].value = value

    found = read_gguf(write_model(tmp_path / "model.gguf", "llama", tokenizer=write))
    assert len(list(found.tensors())) == 21
    with pytest.raises(ArtifactError, match=said) as caught:
        _ = found.tokenizer_json
    assert "tokenizer" in caught.value.remedy
