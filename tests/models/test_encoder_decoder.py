"""Our encoder-decoder against transformers' T5, BART and Marian, built from configuration with random weights."""

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from oracle import TOLERANCE, assert_same_gradients, randomise, save_pretrained, transformers_model
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from preceptor.core.errors import ArtifactError
from preceptor.models.encoder_decoder import FAMILY, EncoderDecoder, build
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.interchange import architecture_of, load_model, save_model
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED

VOCAB_SIZE = 61
START = 3
SMALL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_decoder_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 48,
    "decoder_start_token_id": START,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
}
BUCKETS = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "initializer_factor": 0.5}
T5 = BUCKETS | {"head_dim": 6, "gated": False, "hidden_act": "relu", "tie_word_embeddings": True}
BART = {
    "positions": "learned",
    "position_offset": 2,
    "norm": "layernorm",
    "norm_placement": "after",
    "norm_eps": 1e-5,
    "normalize_embedding": True,
    "gated": False,
    "hidden_act": "gelu",
    "bias": True,
    "attention_scale": 0.0,
    "tie_word_embeddings": True,
    "final_logits_bias": True,
    "initializer": "normal",
    "initializer_range": 0.15,
}
TRANSFORMER = BART | {
    "positions": "sinusoidal",
    "position_offset": 0,
    "normalize_embedding": False,
    "scale_embedding": True,
    "hidden_act": "relu",
    "initializer": "xavier",
}
SHAPES = {
    "T5 1.0": ("t5", T5 | {"scale_decoder_outputs": True}),
    "T5 1.1": ("t5", BUCKETS),
    "T5 1.1, SiLU": ("t5", BUCKETS | {"hidden_act": "silu"}),
    "BART": ("bart", BART),
    "BART, scaled embedding": ("bart", BART | {"scale_embedding": True, "hidden_act": "gelu_new"}),
    "Transformer": ("marian", TRANSFORMER),
}
Pair = tuple[EncoderDecoder, torch.nn.Module, Path]


def made(fields: dict) -> EncoderDecoder:
    """A model none of whose weights hides a mistake."""
    model = randomise(build(EncoderDecoderConfig(**{**SMALL, **fields}), torch.Generator().manual_seed(1)))
    if model.final_logits_bias is not None:
        model.final_logits_bias.normal_(0.0, 1.0, generator=torch.Generator().manual_seed(5))
    return model


@pytest.fixture(params=SHAPES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    model_type, fields = SHAPES[request.param]
    ours = made(fields)
    assert architecture_of(ours.config).model_type == model_type
    folder = tmp_path_factory.mktemp("model")
    save_model(ours, folder)
    theirs = transformers_model(folder, "AutoModelForSeq2SeqLM")
    if model_type == "marian":  # Its sines and cosines are not trained, which loading forgets.
        for stack in (theirs.model.encoder, theirs.model.decoder):
            stack.embed_positions.weight.requires_grad_(False)
    return ours, theirs, folder


def tokens(rows: int, length: int, seed: int) -> torch.Tensor:
    return torch.randint(4, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(seed))


def shifted(labels_BT: torch.Tensor) -> torch.Tensor:
    return torch.cat((torch.full_like(labels_BT[:, :1], START), labels_BT[:, :-1]), dim=1)


def segments_of(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions and segments of a row of documents."""
    places = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    return places, torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).unsqueeze(0)


def compare(ours: EncoderDecoder, theirs: torch.nn.Module, inputs: Inputs, labels: torch.Tensor, **given) -> None:
    """The loss over the labels and every gradient of it; ``given`` is what transformers reads and is to say."""
    loss, _, count = ours.loss_sum(inputs, labels)
    ours.zero_grad()
    (loss / count).backward()
    theirs.zero_grad()
    their_labels = given.pop("their_labels", labels)
    expected = F.cross_entropy(theirs(**given).logits.flatten(0, 1), their_labels.flatten())
    expected.backward()
    torch.testing.assert_close(loss / count, expected, **TOLERANCE)
    assert_same_gradients(ours, theirs)


def test_logits_loss_and_every_gradient_are_those_of_transformers(pair):
    ours, theirs, _ = pair
    source, labels = tokens(3, 17, 3), tokens(3, 19, 4)
    inputs = Inputs(shifted(labels), source=Inputs(source))
    given = {"input_ids": source, "decoder_input_ids": inputs.tokens_BT}
    torch.testing.assert_close(ours(inputs), theirs(**given).logits, **TOLERANCE)
    labels[0, :5] = IGNORED
    compare(ours, theirs, inputs, labels, **given)


def test_no_weight_is_left_at_transformers_own_start(pair):
    ours, theirs, _ = pair
    count = sum(parameter.numel() for parameter in theirs.parameters() if parameter.requires_grad)
    assert sum(parameter.numel() for parameter in ours.parameters()) == count


def test_padding_of_either_side_changes_nothing(pair):
    ours, theirs, _ = pair
    source, labels = tokens(3, 17, 3), tokens(3, 19, 4)
    read = torch.arange(17) < torch.tensor([[17], [9], [4]])
    said = torch.arange(19) < torch.tensor([[6], [19], [11]])
    inputs = Inputs(
        shifted(labels), None, torch.where(said, 0, -1), source=Inputs(source, None, torch.where(read, 0, -1))
    )
    given = {
        "input_ids": source,
        "attention_mask": read.long(),
        "decoder_input_ids": inputs.tokens_BT,
        "decoder_attention_mask": said.long(),
    }
    torch.testing.assert_close(ours(inputs)[said], theirs(**given).logits[said], **TOLERANCE)
    compare(ours, theirs, inputs, labels.masked_fill(~said, IGNORED), **given)


def test_packed_pairs_are_as_if_alone(pair):
    """Three pairs in one row against transformers' reading of each by itself, in a batch with padding."""
    ours, theirs, _ = pair
    of_source, of_target = [8, 3, 6], [4, 9, 7]
    source, labels = tokens(1, 17, 3), tokens(1, 20, 4)
    said = torch.cat([shifted(part) for part in labels.split(of_target, dim=1)], dim=1)
    inputs = Inputs(said, *segments_of(of_target), source=Inputs(source, *segments_of(of_source)))
    alone = {name: torch.zeros(3, 9, dtype=torch.long) for name in ("input_ids", "attention_mask", "decoder_input_ids")}
    their_labels = torch.full((3, 9), IGNORED)
    for row in range(3):
        read = source.split(of_source, dim=1)[row][0]
        alone["input_ids"][row, : len(read)], alone["attention_mask"][row, : len(read)] = read, 1
        target = of_target[row]
        alone["decoder_input_ids"][row, :target] = said.split(of_target, dim=1)[row][0]
        their_labels[row, :target] = labels.split(of_target, dim=1)[row][0]
    expected = theirs(**alone).logits[their_labels != IGNORED]
    torch.testing.assert_close(ours(inputs)[0], expected, **TOLERANCE)
    compare(ours, theirs, inputs, labels, their_labels=their_labels, **alone)


@pytest.mark.parametrize("fields", [T5, BART, TRANSFORMER], ids=["T5", "BART", "Transformer"])
def test_another_pair_of_the_row_changes_no_bit_of_logits_and_gradients(fields):
    ours = made(fields)
    source, labels = tokens(1, 17, 3), tokens(1, 20, 4)
    seen = []
    for seed in (None, 8):
        read, said = source.clone(), shifted(labels)
        if seed is not None:
            read[:, :9], said[:, :8] = tokens(1, 9, seed), tokens(1, 8, seed + 1)
        inputs = Inputs(said, *segments_of([8, 12]), source=Inputs(read, *segments_of([9, 8])))
        ours.zero_grad()
        logits = ours(inputs)[:, 8:]
        F.cross_entropy(logits[0], labels[0, 8:]).backward()
        seen.append((logits.detach(), {name: parameter.grad.clone() for name, parameter in ours.named_parameters()}))
    assert torch.equal(seen[0][0], seen[1][0])
    for name, gradient in seen[0][1].items():
        assert torch.equal(gradient, seen[1][1][name]), name


def test_a_target_sees_its_source_and_no_future():
    ours = made(T5)
    source, said = tokens(1, 7, 3), tokens(1, 9, 4)
    logits = ours(Inputs(said, source=Inputs(source)))
    other_source, other_said = source.clone(), said.clone()
    other_source[0, 6], other_said[0, 5] = 1, 1
    assert not torch.allclose(ours(Inputs(said, source=Inputs(other_source)))[:, 0], logits[:, 0])
    changed = ours(Inputs(other_said, source=Inputs(source)))
    torch.testing.assert_close(changed[:, :5], logits[:, :5], rtol=0, atol=0)
    assert not torch.allclose(changed[:, 5:], logits[:, 5:])


def test_the_cache_gives_the_logits_of_the_whole_target(pair):
    ours, _, _ = pair
    source, said, lengths = tokens(3, 12, 3), tokens(3, 21, 4), torch.tensor([9, 4, 7])
    segments = torch.where(torch.arange(12) < torch.tensor([[12], [5], [8]]), 0, -1)
    read = Inputs(source, None, segments)
    cache = ours.new_cache(3, 21)
    assert ours.start(read, cache).tolist() == [[START]] * 3
    stepped = [ours.step(said[:, :9], cache, lengths)]
    for extra in range(6):
        column = torch.stack([said[row, lengths[row] + extra] for row in range(3)]).unsqueeze(1)
        stepped.append(ours.step(column, cache))
    whole = ours(Inputs(said, source=read)).detach()
    for extra, logits_BV in enumerate(stepped):
        expected = torch.stack([whole[row, lengths[row] - 1 + extra] for row in range(3)])
        torch.testing.assert_close(logits_BV, expected, **TOLERANCE)


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_generation_is_token_identical(name, tmp_path):
    ours = made(SHAPES[name][1])
    with torch.no_grad():
        # Where the last gain has any sign, a model whose output is tied does not say what it read again and again.
        last = ours.decoder.layer_norm or ours.decoder.layers[-1].final_layer_norm
        last.weight.normal_(0.0, 1.0, generator=torch.Generator().manual_seed(6))
        for parameter in ours.decoder.layers.parameters():
            parameter.mul_(2.0)
    save_model(ours, tmp_path)
    theirs = transformers_model(tmp_path, "AutoModelForSeq2SeqLM")
    source, mask = tokens(2, 11, 3), torch.arange(11) < torch.tensor([[11], [6]])
    cache = ours.new_cache(2, 30)
    said = [ours.start(Inputs(source, None, torch.where(mask, 0, -1)), cache)]
    for _ in range(25):
        said.append(ours.step(said[-1], cache).argmax(-1, keepdim=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.generate(
            source,
            attention_mask=mask.long(),
            max_new_tokens=25,
            do_sample=False,
            num_beams=1,
            decoder_start_token_id=START,
            eos_token_id=VOCAB_SIZE + 1,
            forced_eos_token_id=None,
            pad_token_id=0,
        )
    assert torch.equal(torch.cat(said, dim=1), expected)
    assert len(expected.unique()) > 2


def test_load_of_save_is_the_identity(pair):
    ours, _, folder = pair
    again = load_model(folder)
    assert again.config == ours.config
    assert again.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_what_transformers_saves_loads_here_bit_for_bit(pair, tmp_path):
    ours, theirs, _ = pair
    save_pretrained(theirs, tmp_path)
    again = load_model(tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())
    inputs = Inputs(tokens(2, 9, 4), source=Inputs(tokens(2, 7, 3)))
    assert torch.equal(again(inputs), ours(inputs))
    assert (again.config.num_hidden_layers, again.config.decoder_layers) == (3, 2)


def test_a_base_model_and_embeddings_under_other_names_are_read(tmp_path):
    """BART's first release has no head, and its embedding may stand under the name of a stack's."""
    ours = build(EncoderDecoderConfig(**{**SMALL, **BART}), torch.Generator().manual_seed(1))
    save_model(ours, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["final_logits_bias"]
    state["model.encoder.embed_tokens.weight"] = state.pop("model.shared.weight")
    save_file({name.removeprefix("model."): tensor for name, tensor in state.items()}, tmp_path / "model.safetensors")
    again = load_model(tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_what_is_neither_tied_nor_scaled_is_known_by_its_scaling(tmp_path):
    """Releases of transformers from 5 on call T5 1.1 tied, whatever the file holds."""
    ours = made(BUCKETS)
    save_model(ours, tmp_path)
    table = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(table))
    assert torch.equal(load_model(tmp_path).lm_head.weight, ours.lm_head.weight)
    older = {key: value for key, value in table.items() if key != "scale_decoder_outputs"}
    (tmp_path / "config.json").write_text(json.dumps(older | {"tie_word_embeddings": False, "model_type": "mt5"}))
    assert load_model(tmp_path).config == ours.config


@pytest.mark.parametrize(
    ("fields", "change", "message"),
    [
        (T5 | {"scale_decoder_outputs": True}, {"feed_forward_proj": "gated-gelu-new"}, "feed_forward_proj"),
        (BART, {"decoder_ffn_dim": 3}, "must be equal"),
        (BART, {"normalize_before": True}, "normalize_before is true"),
        (BART, {"tie_word_embeddings": False}, "tie_word_embeddings is false"),
        (TRANSFORMER, {"share_encoder_decoder_embeddings": False}, "two vocabularies"),
        (TRANSFORMER, {"activation_function": "mish"}, "hidden_act is 'mish'"),
    ],
)
def test_what_is_not_known_here_is_refused(fields, change, message, tmp_path):
    save_model(made(fields), tmp_path)
    table = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(table))
    with pytest.raises(ArtifactError, match=message):
        load_model(tmp_path)


def test_what_no_architecture_of_transformers_can_say_is_saved_all_the_same(tmp_path):
    ours = made(T5)
    assert architecture_of(ours.config).model_type == "preceptor-encoder-decoder"
    save_model(ours, tmp_path)
    assert load_model(tmp_path).config == ours.config


def test_starting_weights_are_spread_as_the_papers_say():
    config = EncoderDecoderConfig(vocab_size=500, hidden_size=64, num_attention_heads=4, head_dim=32)
    state = build(config, torch.Generator().manual_seed(1)).state_dict()
    layer = "decoder.layers.1"
    for name, deviation in {
        "shared.weight": 1.0,
        f"{layer}.encoder_attn.q_proj.weight": (64 * 32) ** -0.5,
        f"{layer}.encoder_attn.k_proj.weight": 64**-0.5,
        f"{layer}.self_attn.o_proj.weight": (4 * 32) ** -0.5,
        f"{layer}.mlp.down_proj.weight": 704**-0.5,
    }.items():
        assert state[name].std().item() == pytest.approx(deviation, rel=0.05), name
    assert all((tensor == 1).all() for name, tensor in state.items() if "norm" in name)
    xavier = build(EncoderDecoderConfig(**{**SMALL, **TRANSFORMER}), torch.Generator().manual_seed(1)).state_dict()
    assert xavier["encoder.layers.0.mlp.up_proj.weight"].abs().max().item() == pytest.approx((6 / 72) ** 0.5, rel=0.02)
    assert not xavier["encoder.layers.0.mlp.up_proj.bias"].any()


def test_the_sharding_table_names_every_matrix_of_a_stack_once():
    with torch.device("meta"):
        model = FAMILY.module(EncoderDecoderConfig(vocab_size=64))
    patterns = [re.compile(pattern.replace(".*", r"\..+") + "$") for pattern in FAMILY.sharding]
    for name, parameter in model.named_parameters():
        assert sum(1 for pattern in patterns if pattern.match(name)) == (parameter.dim() == 2), name


def test_dropout_acts_in_training_alone():
    ours = made(T5)
    inputs = Inputs(tokens(1, 9, 4), source=Inputs(tokens(1, 7, 3)))
    assert torch.equal(ours(inputs), ours(inputs))
    ours.train()
    assert not torch.equal(ours(inputs), ours(inputs))


def test_what_cannot_be_built_or_read_says_why():
    with pytest.raises(ValueError, match="needs a source"):
        made(T5).logits(tokens(1, 5, 3))
    with pytest.raises(ValueError, match="holds no source"):
        made(T5).step(tokens(1, 1, 3), made(T5).new_cache(1, 4))
    for wrong in ({"hidden_size": 0}, {"dropout": 1.0}, {"relative_attention_num_buckets": 7}, {"vocab_size": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EncoderDecoderConfig(**wrong)
