"""Prompt tuning against peft: every architecture, gradients, files both ways, starts, and generation."""

import json
import math
import warnings

import pytest
import torch
from virtual_token_samples import (
    DECODERS,
    ENCODERS,
    NUM_TOKENS,
    PAIRS,
    PROMPT,
    START,
    TOLERANCE,
    TWO_STREAMS,
    VOCAB_SIZE,
    adapted,
    built,
    in_front,
    inputs_of,
    next_tokens,
    our_loss,
    our_states,
    peft_of,
    peft_task,
    saved,
    their_base,
    their_loss,
    their_states,
    tokens,
)

from preceptor.adapters.adapter import trainable
from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.attach import adapt, load_adapter, merge, virtual_ids
from preceptor.adapters.prompt import PromptEmbedding
from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.models.heads import HeadConfig, attach_head
from preceptor.models.interchange import load_model
from preceptor.models.language_model import is_hidden_matrix
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED
from preceptor.serve.generate import generate, generate_many
from preceptor.serve.sampling import SamplingConfig

IDS = [VOCAB_SIZE + place for place in range(NUM_TOKENS)]


def their_states_of(name, model, ids):
    """What peft gives, the prompt's places too; Marian's, which peft gives words without their scale, by hand."""
    if name != "marian":
        return their_states(name, model, ids)
    base, source = model.get_base_model(), tokens(len(ids), 11, 7)
    words = base.get_input_embeddings()(source) * math.sqrt(base.config.d_model)
    prompt = model.prompt_encoder["default"].embedding.weight.expand(len(ids), -1, -1)
    return base(inputs_embeds=torch.cat((prompt, words), dim=1), decoder_input_ids=ids).logits


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS, *TWO_STREAMS, *PAIRS])
def test_peft_reads_what_we_save_and_gives_the_same_states_loss_and_gradients(name, tmp_path):
    ours = adapted(name, PROMPT, tmp_path)
    theirs = peft_of(name, tmp_path)
    ids = tokens()
    inputs = inputs_of(name, ids, virtual_ids(ours))
    labels = next_tokens(ids)
    if name not in PAIRS:
        labels = torch.cat((torch.full((len(ids), NUM_TOKENS), IGNORED), labels), dim=1)
    given, expected = our_states(name, ours, inputs), their_states_of(name, theirs, ids)
    torch.testing.assert_close(given, expected, **TOLERANCE)
    loss, their = our_loss(name, ours, inputs, labels), their_loss(name, expected, labels)
    torch.testing.assert_close(loss, their, **TOLERANCE)
    loss.backward()
    their.backward()
    wanted = theirs.prompt_encoder["default"].embedding.weight.grad
    torch.testing.assert_close(ours.input_embedding.prompt_PD.grad, wanted, **TOLERANCE)
    assert [n for n, p in ours.named_parameters() if p.grad is not None] == [
        n for n, _ in ours.named_parameters() if n.endswith("prompt_PD")
    ]


@pytest.mark.parametrize("name", ["llama", "gemma3", "bert", "t5"])
def test_we_read_what_peft_saves(name, tmp_path):
    saved(built(name), tmp_path)
    base = their_base(name, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import PromptTuningConfig, get_peft_model

        theirs = get_peft_model(
            base, PromptTuningConfig(task_type=peft_task(name), num_virtual_tokens=NUM_TOKENS)
        ).eval()
        theirs.save_pretrained(tmp_path / "adapter")
    ours = load_adapter(load_model(tmp_path), tmp_path / "adapter")
    given = our_states(name, ours, inputs_of(name, tokens(), virtual_ids(ours)))
    torch.testing.assert_close(given, their_states(name, theirs, tokens()).detach(), **TOLERANCE)


def test_the_first_place_speaks_for_a_text_as_in_peft(tmp_path):
    """What a classifier of peft reads is the state of the first vector of the prompt."""
    ours = adapted("bert", PROMPT, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import PromptTuningConfig, get_peft_model
        from transformers import BertForSequenceClassification

        base = BertForSequenceClassification.from_pretrained(tmp_path, num_labels=4, attn_implementation="eager")
        theirs = get_peft_model(base, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=NUM_TOKENS)).eval()
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.copy_(ours.input_embedding.prompt_PD)
    expected = theirs(input_ids=tokens(), attention_mask=torch.ones_like(tokens())).logits
    classes = base.get_submodule("classifier")
    hidden = ours.hidden(Inputs(in_front(IDS, tokens())))[:, 0]
    torch.testing.assert_close(classes(torch.tanh(base.bert.pooler.dense(hidden))), expected, **TOLERANCE)


def test_only_the_prompt_and_heads_train_and_nothing_else_of_the_model_changes():
    model = built("llama")
    before, names = model.logits(tokens()), list(model.state_dict())
    attach_head(model, "topic", HeadConfig(labels=("a", "b")))
    adapt(model, PROMPT, torch.Generator().manual_seed(3))
    assert torch.equal(model.logits(tokens()), before)
    assert trainable(model)[0] == NUM_TOKENS * 32 + 2 * 33
    assert virtual_ids(model) == IDS
    assert sorted(model.state_dict()) == sorted(
        [*names, "model.embed_tokens.prompt_PD", "heads.topic.output.weight", "heads.topic.output.bias"]
    )
    assert model.output_weight_VD is model.input_embedding.weight and len(model.output_weight_VD) == VOCAB_SIZE
    assert not is_hidden_matrix("model.embed_tokens.prompt_PD", model.input_embedding.prompt_PD)
    assert model.logits(in_front(IDS, tokens())).shape[-1] == VOCAB_SIZE


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_a_prompt_that_starts_from_a_text_is_read_as_that_text(name):
    text = [7, 9, 11, 13]
    config = AdapterConfig(kind="prompt", num_virtual_tokens=6, prompt_start="text", prompt_text="it is")
    model = adapted(name, config, start_ids=text)
    as_text = torch.tensor([*text, *text[:2]]).expand(3, -1)
    given = model.logits(in_front(virtual_ids(model), tokens()))
    torch.testing.assert_close(given, model.logits(torch.cat((as_text, tokens()), dim=1)), **TOLERANCE)
    labels = AdapterConfig(kind="prompt", num_virtual_tokens=2, prompt_start="label")
    started = adapted(name, labels, start_ids=text)
    as_text = torch.tensor(text[:2]).expand(3, -1)
    given = started.logits(in_front(virtual_ids(started), tokens()))
    torch.testing.assert_close(given, started.logits(torch.cat((as_text, tokens()), dim=1)), **TOLERANCE)


def test_a_prompt_has_something_to_start_from():
    config = AdapterConfig(kind="prompt", prompt_start="text", prompt_text=" ")
    with pytest.raises(ConfigError, match="no token of the text"):
        adapt(built("llama"), config, start_ids=[])
    with pytest.raises(ConfigError, match="leave none of the 48 positions"):
        adapt(built("llama"), AdapterConfig(kind="prompt", num_virtual_tokens=50))
    with pytest.raises(ConfigError, match="prompt stands in front"):
        merge(adapted("llama", PROMPT))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_cached_generation_equals_reading_everything_anew(name):
    model = adapted(name, PROMPT)
    ids, lengths = in_front(IDS, tokens()), torch.tensor([9, 4, 7]) + NUM_TOKENS
    cache = model.new_cache(3, 18)
    stepped = [model.step(ids[:, :12], cache, lengths)]
    for extra in range(6):
        stepped.append(model.step(torch.stack([ids[row, lengths[row] + extra] for row in range(3)])[:, None], cache))
    whole = model.logits(ids)
    for extra, logits_BV in enumerate(stepped):
        expected = torch.stack([whole[row, lengths[row] - 1 + extra] for row in range(3)])
        torch.testing.assert_close(logits_BV, expected, **TOLERANCE)


def test_cached_generation_of_an_encoder_decoder_equals_reading_everything_anew():
    model = adapted("t5", PROMPT)
    ids = tokens(2, 7)
    ids[:, 0] = START
    source = inputs_of("t5", ids, IDS).source
    cache = model.new_cache(2, 7)
    model.start(source, cache)
    whole = model(Inputs(ids, source=source)).detach()
    for place in range(7):
        torch.testing.assert_close(model.step(ids[:, place : place + 1], cache), whole[:, place], **TOLERANCE)


def test_a_long_text_is_cut_behind_the_prompt():
    model, greedy = adapted("gpt2", PROMPT), SamplingConfig(temperature=0.0, max_new_tokens=5)
    text = tokens(1, 60)[0].tolist()
    kept = [*IDS, *text[-(48 - 5 - NUM_TOKENS) :]]
    said = list(generate(model, [*IDS, *text], greedy, VOCAB_SIZE + 1))
    assert len(said) == 5 and max(said) < VOCAB_SIZE
    assert said == list(generate(model, kept, greedy, VOCAB_SIZE + 1))
    assert generate_many(model, [[*IDS, *text], kept], greedy, VOCAB_SIZE + 1) == [said, said]


def test_a_prompt_is_kept_in_single_precision_over_a_base_in_half():
    model = built("llama").bfloat16()
    adapt(model, PROMPT, torch.Generator().manual_seed(3))
    assert model.input_embedding.prompt_PD.dtype == torch.float32
    assert model.logits(in_front(IDS, tokens())).dtype == torch.bfloat16


def test_a_prompt_of_another_model_or_a_torn_one_is_refused(tmp_path):
    adapted("llama", PROMPT, tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    load_adapter(built("gpt2"), tmp_path / "adapter")  # Of the same width: it can be told only by the base's name.
    narrow = torch.nn.Module()
    narrow.config, narrow.input_embedding = built("llama").config, torch.nn.Embedding(VOCAB_SIZE, 16)
    with pytest.raises(ArtifactError, match="does not fit a model of width 16"):
        load_adapter(narrow, tmp_path / "adapter")
    path.write_text(json.dumps({**json.loads(path.read_text()), "peft_type": "P_TUNING"}))
    with pytest.raises(ArtifactError, match="P_TUNING"):
        load_adapter(built("llama"), tmp_path / "adapter")


def test_loading_again_replaces_the_prompt(tmp_path):
    model = adapted("llama", PROMPT, tmp_path)
    first = model.logits(in_front(IDS, tokens()))
    model = adapted("llama", AdapterConfig(kind="prompt", num_virtual_tokens=5))
    load_adapter(model, tmp_path / "adapter")
    assert virtual_ids(model) == IDS and isinstance(model.input_embedding, PromptEmbedding)
    assert torch.equal(model.logits(in_front(IDS, tokens())), first)
