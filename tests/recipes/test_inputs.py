"""Files that a recipe names: looked at before the work, and known by content."""

import shutil

import pytest

from preceptor.core.artifact import Store
from preceptor.core.errors import ConfigError, DataError
from preceptor.core.interrupt import Stop
from preceptor.data.corpus import Corpus
from preceptor.data.withdrawal import withdrawals
from preceptor.recipes import inputs
from preceptor.recipes.forget import as_text, forget
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.run import load_run
from preceptor.tokenizer import training
from preceptor.tokenizer.config import TokenizerConfig

WORDS = [
    *("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch"),
    *("marsh", "niche", "ocean", "plain", "quarry", "ridge"),
]


def pipeline(out, *overrides) -> Pipeline:
    return Pipeline(load_run("tiny", [*overrides, "execution.kind=in-process"]), out, Stop())


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data.rights.opt_out=gone.toml", "data.rights.opt_out"),
        ('tokenizer={kind="import", path="gone.json"}', "tokenizer.path"),
        ('data.bias.groups=["gone.txt"]', "data.bias.groups"),
        ('data.contamination.paths=["gone.jsonl"]', "data.contamination.paths"),
    ],
)
def test_a_file_that_is_not_there_is_told_before_anything_is_read(tmp_path, documents, monkeypatch, override, key):
    def read(*asked):
        raise AssertionError("something was read")

    monkeypatch.setattr(inputs, "of_corpus", read)
    with pytest.raises(ConfigError) as caught:
        pipeline(tmp_path / "out", documents, override).corpus()
    assert caught.value.path == key and caught.value.exit_code == 2
    assert key in str(caught.value) and "gone." in str(caught.value) and caught.value.remedy


def test_a_list_that_cannot_be_read_names_its_key(tmp_path, documents):
    (tmp_path / "wishes.toml").write_text("domain = [")
    with pytest.raises(ConfigError, match=r"data\.rights\.opt_out.*wishes\.toml") as caught:
        pipeline(tmp_path / "out", documents, f"data.rights.opt_out={tmp_path / 'wishes.toml'}").corpus()
    assert caught.value.path == "data.rights.opt_out" and caught.value.remedy


def test_examples_that_are_missing_are_told_before_the_corpus_is_made(tmp_path, documents):
    made = pipeline(tmp_path / "out", documents, f"finetuning.examples={tmp_path / 'gone.jsonl'}")
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        made.evaluation()
    assert not made.store.all("corpus")


def tokenizer_file(folder, vocab_size):
    folder.mkdir()
    training.train([" ".join(WORDS)] * 4, TokenizerConfig(vocab_size=vocab_size), folder)
    return folder / "tokenizer.json"


@pytest.mark.parametrize(
    ("recipe", "key", "none"),
    [("encoder", "tokenizer.mask_token", "false"), ("encoder-decoder", "tokenizer.num_sentinels", "0")],
)
def test_a_tokenizer_without_the_tokens_of_the_objective_is_told_before_any_work(tmp_path, recipe, key, none):
    run = load_run(recipe, [f"{key}={none}"])
    with pytest.raises(ConfigError, match="stand for hidden ones") as caught:
        Pipeline(run, tmp_path, Stop()).corpus()
    assert caught.value.path == key and key in caught.value.remedy
    assert not list((tmp_path / "artifacts").glob("*"))


@pytest.mark.parametrize("recipe", ["encoder-decoder", "two-stream"])
def test_rows_that_cannot_be_cut_are_told_before_any_work(tmp_path, recipe):
    run = load_run(recipe, ["pretraining.context_warmup.steps=5"])
    with pytest.raises(ConfigError, match="tear apart") as caught:
        Pipeline(run, tmp_path, Stop()).corpus()
    assert "context_warmup.steps = 0" in caught.value.remedy
    assert not list((tmp_path / "artifacts").glob("*"))


def test_another_tokenizer_under_the_same_path_is_another_artifact(tmp_path, documents):
    path = tmp_path / "theirs.json"
    setting = f'tokenizer={{kind="import", path="{path}"}}'
    shutil.copy(tokenizer_file(tmp_path / "small", 262), path)
    first = pipeline(tmp_path / "out", documents, setting).tokenizer()
    assert pipeline(tmp_path / "out", documents, setting).tokenizer().id == first.id
    shutil.copy(tokenizer_file(tmp_path / "large", 270), path)
    second = pipeline(tmp_path / "out", documents, setting).tokenizer()
    assert (first.facts["vocab_size"], second.facts["vocab_size"]) == (262, 270)
    assert len(Store(tmp_path / "out" / "artifacts").all("corpus")) == 1


def test_the_files_of_a_folder_count_and_a_trained_tokenizer_has_none(tmp_path):
    folder = tmp_path / "theirs"
    tokenizer_file(folder, 262)
    config = TokenizerConfig(kind="import", path=str(folder))
    before = inputs.of_tokenizer(config)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "weights.bin").write_text("none of ours")
    after = inputs.of_tokenizer(config)
    assert len(after) == len(before) + 1 and set(before) < set(after)
    assert inputs.of_tokenizer(TokenizerConfig()) == []


def test_forgetting_twice_changes_nothing_also_after_it_was_made_anew(tmp_path, documents):
    out = tmp_path / "out"
    first = pipeline(out, documents).corpus()
    names = {row["source"].rpartition("/")[2]: row["source"] for row in Corpus.load(first.path).ledger()}
    name, other = names["3.txt"], names["4.txt"]
    done = forget(out, [name], why="asked")
    assert len(done["asked"]) == 1 and done["already"] == [] and len(withdrawals(out)) == 1
    files = {path: path.read_bytes() for path in (out / "withdrawals.jsonl", out / "tainted.json")}
    for query in (name, done["asked"][0], (tmp_path / "docs" / "3.txt").read_text()):
        again = forget(out, [query], why="once more")
        assert again["already"] == done["asked"] and not again["asked"] and not again["tainted"]
        assert as_text(again, out) == f"already withdrawn, nothing was changed: {done['asked'][0]}"
    made = pipeline(out, documents).corpus()
    assert made.facts["documents_dropped"] == first.facts["documents_dropped"] + 1
    assert forget(out, [name], why="after it was made anew")["already"] == done["asked"]
    assert {path: path.read_bytes() for path in files} == files
    both = forget(out, [name, other], why="two")
    assert both["already"] == done["asked"] and len(both["asked"]) == 1
    assert len(withdrawals(out)) == 2


@pytest.mark.parametrize(
    "override, said",
    [
        ('pretraining.optimizer.groups=[{pattern="*embedd*", frozen=true}]', "fits no weight"),
        ("pretraining.precision.kind=float8", "pretraining.precision.kind is float8"),
        ("finetuning.device=cuda", "finetuning.device is cuda"),
    ],
)
def test_what_cannot_be_trained_is_told_before_anything_is_read(tmp_path, override, said):
    import torch

    if torch.cuda.is_available() and "groups" not in override:
        pytest.skip("this machine can")
    with pytest.raises(ConfigError, match=said):
        pipeline(tmp_path, override).corpus()
    assert not list(tmp_path.glob("artifacts/*"))
