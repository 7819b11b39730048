"""Exports of models of every family, with heads and without."""

import json

import pytest
import torch
from oracle import TOLERANCE, randomise, transformers_model

from preceptor.core.artifact import Store
from preceptor.core.errors import ArtifactError
from preceptor.models.decoder import Decoder
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder import Encoder
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.encoder_decoder import EncoderDecoder
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.heads import HeadConfig, attach_head, head_scores
from preceptor.models.interchange import load_model, save_model
from preceptor.models.two_stream import TwoStream
from preceptor.models.two_stream_config import TwoStreamConfig
from preceptor.nn.inputs import Inputs
from preceptor.recipes.export import export
from preceptor.recipes.report import write_run_file
from preceptor.recipes.run import load_run
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train

SMALL = {"vocab_size": 270, "hidden_size": 32, "num_attention_heads": 4}
BERT = {"num_hidden_layers": 2, "intermediate_size": 48, "positions": "learned", "norm_placement": "after",
        "norm_bias": True, "gated": False, "attention_bias": True, "mlp_bias": True, "lm_head_bias": True,
        "type_vocab_size": 2}  # fmt: skip
MODELS = {
    "bert": lambda: Encoder(EncoderConfig(**SMALL, **BERT)),
    "xlnet": lambda: TwoStream(TwoStreamConfig(**SMALL)),
    "t5": lambda: EncoderDecoder(EncoderDecoderConfig(**SMALL)),
    "native": lambda: Decoder(DecoderConfig(**SMALL, num_hidden_layers=2, sliding_window=8, gated=False)),
}


@pytest.fixture
def exported(tmp_path):
    """Exports a model that stands in the folder of a run as its checkpoint; gives the folder and the facts."""

    def made(model, **how):
        out = tmp_path / "run"
        out.mkdir()
        write_run_file(load_run("tiny"), out)
        with Store(out / "artifacts").draft("checkpoint", "1" * 64, {}) as draft:
            tokenizer = train(["a tale of two cities " * 20], TokenizerConfig(vocab_size=270), draft.path)
            save_model(model, draft.path, tokenizer.end_of_text_id)
        return tmp_path / "to", export(out, tmp_path / "to", **how)

    return made


def made_of(name):
    torch.manual_seed(6)
    return randomise(MODELS[name]())


@pytest.mark.parametrize("name", MODELS)
def test_every_family_leaves_as_it_is(exported, name):
    model = made_of(name)
    folder, facts = exported(model)
    (row,) = facts["parity"]
    assert row["max_logit_difference"] == 0 and row["tokens"] > 20
    again = load_model(folder)
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    card = (folder / "README.md").read_text()
    classes = {"bert": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM", "native": "Only Preceptor reads"}
    assert classes.get(name, "AutoModelForCausalLM") in card
    assert (folder / "chat_template.jinja").exists() == (name in ("t5", "native"))


def test_what_gguf_does_not_know_leaves_nothing(exported, tmp_path):
    with pytest.raises(ArtifactError, match="no place for models of type bert"):
        exported(made_of("bert"), form="gguf")
    assert not (tmp_path / "to").exists()


def test_a_classifier_leaves_for_transformers_too(exported):
    model = randomise(attach_head(made_of("bert"), "topic", HeadConfig(labels=("good", "bad"), dense=True)))
    folder, facts = exported(model)
    ids = torch.arange(20)[None] + 5
    expected = head_scores(model, "topic", Inputs(ids))
    torch.testing.assert_close(head_scores(load_model(folder), "topic", Inputs(ids)), expected)
    assert facts["task"]["class"] == "BertForSequenceClassification"
    assert "sequence-classification/model.safetensors" in facts["files"]
    theirs = transformers_model(folder / "sequence-classification", "AutoModelForSequenceClassification")
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, expected[:, 0], **TOLERANCE)
    assert 'subfolder="sequence-classification"' in (folder / "README.md").read_text()


def test_a_head_without_a_class_of_transformers_is_kept_in_our_layout(exported):
    model = randomise(attach_head(made_of("native"), "topic", HeadConfig(labels=("good", "bad"))))
    folder, facts = exported(model)
    assert "task" not in facts and set(json.loads((folder / "heads.json").read_text())) == {"topic"}
    assert load_model(folder).heads["topic"].config == model.heads["topic"].config
    with pytest.raises(ArtifactError, match=r"heads of a model|no place for models"):
        export(folder.parent / "run", folder.parent / "other", form="gguf")
