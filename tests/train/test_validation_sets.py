"""Named validation sets: what is drawn from them, what they measure, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_training import Stop

from preceptor.core.artifact import Draft
from preceptor.core.errors import ConfigError, DataError, EmptyDataError
from preceptor.core.seeds import KeyedPermutation, derive
from preceptor.data.document import Document
from preceptor.data.mixture import Blending, MixtureConfig
from preceptor.data.sources import Reader
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.two_stream_config import TwoStreamConfig
from preceptor.objectives.choice import objective_for
from preceptor.objectives.objective_config import ObjectiveConfig
from preceptor.objectives.task import prepare
from preceptor.parallel.engine import place
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.stream import TokenStream, encode
from preceptor.tokenizer.training import train as train_tokenizer
from preceptor.train.optim_config import EarlyStoppingConfig, ScheduleConfig
from preceptor.train.pretrain import pretrain, resolve_model, starting_model
from preceptor.train.run import FinetuningConfig, PretrainingConfig
from preceptor.train.session import measured, validation_rows
from preceptor.train.validation_config import ValidationSetConfig, source_names
from preceptor.train.validation_sets import encode_some, finetuning_sets, of_source, pretraining_sets

TEXTS = [f"page {n} of {n % 7} says that {n * n} and {n + 3} are numbers" for n in range(60)]
SETTINGS = TokenizerConfig(vocab_size=320, mask_token=True, num_sentinels=16)
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
DECODER = DecoderConfig(**SIZES, num_hidden_layers=1, num_key_value_heads=1, head_dim=8, max_position_embeddings=32)
CONFIG = PretrainingConfig(
    context_length=32,
    batch_tokens=128,
    micro_batch_tokens=64,
    duration="4 steps",
    validation_every_steps=2,
    validation_tokens=96,
    device="cpu",
    schedule=ScheduleConfig(warmup_steps=1),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(TEXTS, SETTINGS, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def streams(tmp_path_factory, tokenizer):
    """A training and a validation stream with the sources "even" and "odd"; "odd" has most of the validation."""
    folder = tmp_path_factory.mktemp("tokens")
    documents = [Document.new(text, "x", collection=("even", "odd")[n % 2]) for n, text in enumerate(TEXTS)]
    encode({"train": documents[:40], "validation": documents[41:]}, tokenizer, Draft(folder))
    return [TokenStream.open(folder, split, tokenizer) for split in ("train", "validation")]


def sets_of(config, streams, tokenizer, model_config=DECODER):
    return pretraining_sets(config, *streams, tokenizer, 0, model_config, Reader(detect_licences=False))


def held_out(tmp_path, text="word 1 and word 2 and word 3. " * 30, **more):
    path = tmp_path / "held.txt"
    path.write_text(text)
    return ValidationSetConfig(name="held", path=str(path), **more)


@pytest.mark.parametrize("wanted", [1, 40, 10_000])
def test_documents_of_one_source_are_drawn_up_to_a_number_of_tokens(streams, wanted):
    stream = streams[1]
    chosen = of_source(stream, "odd", wanted, 5)
    assert {chosen.collections[source] for source in chosen.sources} == {"odd"}
    lengths = np.diff(chosen.offsets)
    members = [n for n in range(stream.num_documents) if stream.collections[stream.sources[n]] == "odd"]
    # Enough, and not one document more; or all there are.
    assert chosen.num_tokens - lengths.max() < wanted
    assert chosen.num_tokens >= wanted or chosen.num_documents == len(members)
    theirs = {name: stream.document(n).tolist() for n, name in enumerate(stream.document_ids.tolist())}
    for number, name in enumerate(chosen.document_ids.tolist()):
        assert chosen.document(number).tolist() == theirs[name]
    again = of_source(stream, "odd", wanted, 5)
    assert again.tokens.tolist() == chosen.tokens.tolist()
    assert of_source(stream, "nowhere", wanted, 5).num_tokens == 0


@pytest.mark.parametrize("wanted", [1, 60, 10_000])
def test_texts_of_a_file_are_drawn_the_same_way_however_many_there_are(tokenizer, wanted):
    texts = [*TEXTS, ""]
    stream = encode_some(iter(texts), tokenizer, wanted, 3)
    whole = {(*tokenizer.encode(text), tokenizer.end_of_text_id) for text in TEXTS}
    drawn = [tuple(stream.document(n).tolist()) for n in range(stream.num_documents)]
    assert set(drawn) <= whole and len(set(drawn)) == len(drawn)
    if wanted == 10_000:
        assert set(drawn) == whole
    else:
        assert wanted <= stream.num_tokens < wanted + max(map(len, whole))
        other = encode_some(iter(texts), tokenizer, wanted, 4)
        assert other.tokens.tolist() != stream.tokens.tolist()
    assert stream.tokens.tolist() == encode_some(texts, tokenizer, wanted, 3).tokens.tolist()


def test_a_set_of_everything_measures_what_the_whole_stream_would(streams, tokenizer, tmp_path):
    config = replace(CONFIG, validation_tokens=1 << 20, validation_sets=(held_out(tmp_path),))
    sets = sets_of(config, streams, tokenizer)
    assert list(sets) == ["even", "odd", "held"]
    model_config = resolve_model(DECODER, config, tokenizer)
    model, _ = starting_model(model_config, config, streams[0], tokenizer, 0, None)
    engine = place(model)
    sums = []
    for name, (objective, rows) in sets.items():
        chunks = [objective.collate(rows)]
        total, _, tokens = engine.evaluate(objective, ((chunk, True) for chunk in chunks))
        sums.append((total, tokens))
        assert measured(engine, objective, rows, 2).loss == pytest.approx(total / tokens), name
    whole = objective_for(config.objective, streams[1], 32, tokenizer, 0, model_config)
    total, _, tokens = engine.evaluate(whole, [(whole.collate(range(whole.num_rows)), True)])
    assert tokens == sums[0][1] + sums[1][1] == streams[1].num_tokens
    assert total == pytest.approx(sums[0][0] + sums[1][0], rel=1e-5)
    ids = tokenizer.encode(Path(config.validation_sets[0].path).read_text().strip())
    assert sums[2][1] == len(ids) + 1


@pytest.mark.parametrize(
    ("kind", "model_config"),
    [
        ("masked", EncoderConfig(**SIZES, num_hidden_layers=1, max_position_embeddings=32)),
        ("permuted", TwoStreamConfig(**SIZES, num_hidden_layers=1)),
        ("spans", EncoderDecoderConfig(hidden_size=16, intermediate_size=24)),
        ("prefix", DECODER),
        ("causal", DECODER),
    ],
)
def test_every_objective_has_rows_that_are_always_the_same(streams, tokenizer, tmp_path, kind, model_config):
    config = replace(CONFIG, objective=ObjectiveConfig(kind=kind), validation_sets=(held_out(tmp_path, max_tokens=32),))
    first, second = (sets_of(config, streams, tokenizer, model_config) for _ in range(2))
    assert list(first) == ["even", "odd", "held"]
    assert len(first["held"].rows) == 1 and len(first["odd"].rows) == 3
    for name, (objective, rows) in first.items():
        theirs = second[name]
        assert rows == theirs.rows
        batches = objective.collate(rows), theirs.objective.collate(theirs.rows)
        assert torch.equal(batches[0].labels_BT, batches[1].labels_BT)
        assert torch.equal(batches[0].tokens_BT, batches[1].tokens_BT)
        assert bool((batches[0].labels_BT >= 0).any())


def test_what_cannot_be_measured_is_refused_or_told(streams, tokenizer, tmp_path, capsys):
    for broken, error, match in (
        (held_out(tmp_path, text=" \n"), EmptyDataError, "no text|no document"),
        (ValidationSetConfig(name="held", path=str(tmp_path / "gone.txt")), DataError, "does not exist"),
    ):
        with pytest.raises(error, match=match):
            sets_of(replace(CONFIG, validation_sets=(broken,)), streams, tokenizer)
    train, validation = streams
    odd = validation.only(np.flatnonzero(validation.sources == validation.collections.index("odd")))
    assert list(sets_of(CONFIG, (train, odd), tokenizer)) == ["odd"]
    assert "no validation loss of its own for even" in capsys.readouterr().err
    alone = train.only(np.arange(4))
    alone = TokenStream(alone.tokens, alone.offsets, alone.document_ids, 0)
    assert sets_of(CONFIG, (alone, alone), tokenizer) == {}


@pytest.mark.parametrize("settings", [{"name": "a/b"}, {"name": ""}, {"name": "ä"}, {"path": ""}, {"max_tokens": 0}])
def test_settings_that_name_no_set_are_refused(settings):
    with pytest.raises(ValueError, match=r"name|path|max_tokens"):
        ValidationSetConfig(**{"name": "held", "path": "held.txt"} | settings)


def test_two_sets_of_one_name_and_unknown_metrics_are_refused():
    one = ValidationSetConfig(name="held", path="a.txt")
    with pytest.raises(ValueError, match="two of 'held'"):
        replace(CONFIG, validation_sets=(one, replace(one, path="b.txt")))
    with pytest.raises(ValueError, match="metric must be"):
        EarlyStoppingConfig(metric="perplexity")


def test_sources_have_names_that_trackers_take():
    assert source_names(["a"]) == {}
    names = source_names(["docs/**/*.html", "a b", "x*", "x?", "/"])
    assert (names["docs/**/*.html"], names["a b"], names["/"]) == ("docs/_/_.html", "a b", "_")
    assert names["x*"].startswith("x_-") and names["x?"].startswith("x_-") and len(set(names.values())) == 5
    assert source_names(["x?", "x*"]) == {"x?": names["x?"], "x*": names["x*"]}


def run(config, streams, tokenizer, folder, key="key"):
    folder.mkdir(exist_ok=True)
    draft = folder / "draft"
    draft.mkdir(exist_ok=True)
    result = pretrain(
        model_config=DECODER,
        config=config,
        train=streams[0],
        validation=streams[1],
        tokenizer=tokenizer,
        draft=Draft(draft),
        checkpoints=folder / "checkpoints",
        run_key=key,
        seed=0,
        metrics=folder / "metrics.jsonl",
        stop=Stop(),
        blending=Blending(MixtureConfig(), {}),
    )
    return result, (draft / "model.safetensors").read_bytes()


def test_named_sets_are_measured_and_change_nothing_else(streams, tokenizer, tmp_path):
    merged = [TokenStream(s.tokens, s.offsets, s.document_ids, s.num_bytes) for s in streams]
    plain, weights = run(CONFIG, merged, tokenizer, tmp_path / "plain")
    assert "validation_losses" not in plain.facts
    config = replace(CONFIG, validation_sets=(held_out(tmp_path),))
    found, same = run(config, streams, tokenizer, tmp_path / "named")
    assert weights == same
    for before, after in zip(plain.state.curve, found.state.curve, strict=True):
        named = {name for name in after if name.startswith("validation_loss/")}
        assert named == (
            {f"validation_loss/{name}" for name in ("even", "odd", "held")} if after["step"] % 2 == 0 else set()
        )
        assert {name: value for name, value in after.items() if name not in named} == before
    last = found.state.curve[-1]
    assert found.facts["validation_losses"] == {n: last[f"validation_loss/{n}"] for n in ("even", "odd", "held")}
    assert plain.facts == {
        name: fact for name, fact in found.facts.items() if name not in ("validation_losses", "sources")
    } | {"sources": plain.facts["sources"]}
    lines = [json.loads(line) for line in (tmp_path / "named" / "metrics.jsonl").read_text().splitlines()]
    assert lines[1]["validation_loss/held"] == found.state.curve[1]["validation_loss/held"]


def test_training_stops_by_a_named_set_and_keeps_its_best(streams, tokenizer, tmp_path):
    stopping = EarlyStoppingConfig(patience=1, metric="validation_loss/odd", min_delta=100.0)
    result, _ = run(
        replace(CONFIG, duration="20 steps", early_stopping=stopping), streams, tokenizer, tmp_path / "stops"
    )
    # No later validation can be better by so much.
    assert (result.facts["num_steps"], result.facts["best_step"]) == (4, 2)
    assert result.state.best == result.state.curve[1]["validation_loss/odd"]
    assert result.facts["validation_losses"]["odd"] == result.state.best != result.facts["validation_loss"]
    with pytest.raises(ConfigError, match="not measured") as caught:
        unknown = replace(stopping, metric="validation_loss/gone")
        run(replace(CONFIG, early_stopping=unknown), streams, tokenizer, tmp_path / "unknown")
    assert caught.value.path == "pretraining.early_stopping.metric"
    assert "validation_loss/even" in caught.value.remedy and not (tmp_path / "unknown" / "metrics.jsonl").exists()


def test_the_main_validation_is_drawn_as_ever(streams, tokenizer):
    objective = objective_for(CONFIG.objective, streams[1], 32, tokenizer, 0, DECODER)
    order = KeyedPermutation(objective.num_rows, derive(11, "validation"))
    rows = validation_rows(objective, CONFIG, 11)
    assert rows == [order(0), order(1), order(2)]
    assert validation_rows(objective, replace(CONFIG, validation_tokens=1), 11) == rows[:1]


def test_examples_are_a_set_of_fine_tuning(tokenizer, tmp_path):
    path = tmp_path / "more.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"what is {n}?", "answer": f"a {n}"}) for n in range(12)))
    each = ValidationSetConfig(name="more", path=str(path))
    config = FinetuningConfig(context_length=64, batch_tokens=64, micro_batch_tokens=64, validation_sets=(each,))

    def read(examples):
        return prepare(examples, None, tokenizer, DecoderConfig(vocab_size=tokenizer.vocab_size), 64)

    objective, rows = finetuning_sets(config, "instruct", read, 0)["more"]
    assert objective.num_examples == 12 and sorted(rows) == list(range(objective.num_rows))
    short = replace(config, validation_sets=(replace(each, max_tokens=64),))
    assert len(finetuning_sets(short, "instruct", read, 0)["more"].rows) == 1
