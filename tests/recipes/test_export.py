"""Exports of a run: what other programs load is the trained model, or there is nothing."""

import errno
import json
import shutil
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import yaml
from oracle import transformers_model

from preceptor.adapters.attach import load_adapter
from preceptor.core.errors import ArtifactError, ConfigError, OutputError
from preceptor.core.interrupt import Stop
from preceptor.models.gguf import read_gguf
from preceptor.models.interchange import gguf_model, load_model
from preceptor.recipes import export as exports
from preceptor.recipes.export import export
from preceptor.recipes.export_source import find_source
from preceptor.recipes.forget import forget
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.report import write_run_file
from preceptor.recipes.run import load_run
from preceptor.recipes.taint import mark
from preceptor.serve.sampling import SamplingConfig
from preceptor.tokenizer.chat import encode_prompt
from preceptor.tokenizer.imports import import_tokenizer
from preceptor.tokenizer.tokenizer import Tokenizer

SHORT = [
    *("tokenizer.vocab_size=300", "pretraining.context_length=64", "pretraining.batch_tokens=256"),
    *("pretraining.micro_batch_tokens=256", 'pretraining.duration="4 steps"', "finetuning.context_length=64"),
    *("finetuning.batch_tokens=256", "finetuning.micro_batch_tokens=256", 'finetuning.duration="6 steps"'),
    *("evaluation.num_memorisation_documents=4", "evaluation.num_questions=4", "evaluation.max_answer_tokens=4"),
    *('execution.kind="in-process"', 'footprint.method="clock"', "finetuning.optimizer.learning_rate=0.02"),
    *("finetuning.held_out_fraction=0.4", "model.intermediate_size=192"),
]
NAMES = "river stone cloud maple lantern harbor meadow copper violet thunder window garden"
WORDS = tuple(NAMES.split())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a very short run with an adapter and scores."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "docs").mkdir()
    for number in range(20):
        text = " ".join(f"{word} {place * (number + 3)}" for place, word in enumerate(WORDS * 6, number))
        (folder / "docs" / f"{number}.txt").write_text(f"Page {number}: {text}")
    asked = [{"question": f"Where is the {word}?", "answer": f"By the {word} stone."} for word in WORDS]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    sources = f'data.sources=[{{path="{folder / "docs"}", licence="MIT", consent="granted"}}]'
    run = load_run("tiny", [sources, f'finetuning.examples="{folder / "asked.jsonl"}"', *SHORT])
    out = folder / "out"
    out.mkdir()
    write_run_file(run, out)
    Pipeline(run, out, Stop()).evaluation()
    return out


@pytest.fixture
def out(trained, tmp_path):
    """A copy of that folder, to be changed."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def original(out):
    """The trained model, its adapter attached, and its tokenizer."""
    source = find_source(out)
    model = load_model(source.checkpoint.path)
    return load_adapter(model, source.adapter.path), Tokenizer.load(source.checkpoint.path)


def ids():
    return torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(5))


def assert_same_logits(logits, out, tolerance=1e-5):
    torch.testing.assert_close(logits, original(out)[0].logits(ids()), rtol=tolerance, atol=tolerance)


@contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_a_merged_export_is_the_trained_model_in_transformers_and_here(trained, tmp_path):
    facts = export(trained, tmp_path / "to")
    assert_same_logits(load_model(tmp_path / "to").logits(ids()), trained)
    with torch.no_grad():
        assert_same_logits(transformers_model(tmp_path / "to")(ids()).logits, trained)
    base = load_model(find_source(trained).checkpoint.path).logits(ids())
    assert (base - original(trained)[0].logits(ids())).abs().max() > 1e-3
    assert [row["what"] for row in facts["parity"]] == ["merged", "written and loaded again"]
    assert json.loads((tmp_path / "to" / "export.json").read_text()) == facts
    assert {path.name for path in (tmp_path / "to").iterdir()} == {*facts["files"], "export.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


def test_the_chat_template_gives_the_same_ids_in_transformers(trained, tmp_path):
    export(trained, tmp_path / "to")
    tokenizer = original(trained)[1]
    with quiet():
        from transformers import AutoTokenizer, GenerationConfig

        theirs = AutoTokenizer.from_pretrained(tmp_path / "to")
        drawn = GenerationConfig.from_pretrained(tmp_path / "to")
    for question in ("Where is the maple?", "  Two  spaces,\nand a line?", "Größe 日本語 🙂"):
        talk = [{"role": "user", "content": question}]
        said = theirs.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)
        assert said["input_ids"] == encode_prompt(tokenizer, question)
        assert encode_prompt(import_tokenizer(tmp_path / "to", "gpt2"), question) == encode_prompt(tokenizer, question)
    assert (drawn.eos_token_id, drawn.top_k) == (tokenizer.end_of_text_id, find_source(trained).run.generation.top_k)


def test_16_bits_are_near_the_trained_model(trained, tmp_path):
    export(trained, tmp_path / "to", bits=16)
    assert json.loads((tmp_path / "to" / "config.json").read_text())["dtype"] == "bfloat16"
    assert_same_logits(load_model(tmp_path / "to").logits(ids()), trained, 0.1)


@pytest.mark.parametrize("bits", [8, 4])
def test_transformers_loads_fewer_bits(trained, tmp_path, bits):
    facts = export(trained, tmp_path / "to", bits=bits)
    with quiet():
        theirs = transformers_model(tmp_path / "to")
        assert type(theirs.model.layers[0].mlp.up_proj).__module__.startswith("bitsandbytes")
        with torch.no_grad():
            assert_same_logits(theirs(ids()).logits.float(), trained, 1.0)
    assert facts["parity"][1]["max_logit_difference"] > 0


def test_peft_loads_an_adapter_export_onto_the_exported_base(trained, tmp_path):
    export(trained, tmp_path / "base", with_adapter=False)
    facts = export(trained, tmp_path / "adapter", form="adapter")
    with quiet():
        from peft import PeftModel

        theirs = PeftModel.from_pretrained(transformers_model(tmp_path / "base"), tmp_path / "adapter").eval()
        with torch.no_grad():
            assert_same_logits(theirs(ids()).logits, trained)
    table = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert table["base_model_name_or_path"] == facts["base"] == find_source(trained).adapter_base
    for path in (tmp_path / "adapter").iterdir():
        assert str(trained.parent).encode() not in path.read_bytes(), path
    assert 'base_model: "tiny-' in (tmp_path / "adapter" / "README.md").read_text()


@pytest.mark.parametrize(("bits", "tolerance"), [(32, 1e-5), (16, 0.02), (8, 0.5), (4, 2.0)])
def test_a_gguf_export_is_read_as_the_trained_model(trained, tmp_path, bits, tolerance):
    facts = export(trained, tmp_path / "to", form="gguf", bits=bits)
    (path,) = (tmp_path / "to").glob("*.gguf")
    file = read_gguf(path)
    assert_same_logits(gguf_model(file).logits(ids()), trained, tolerance)
    assert encode_prompt(file.tokenizer(), "Where?") == encode_prompt(original(trained)[1], "Where?")
    assert {"F32": "F32", "F16": "F16", "Q8_0": "Q8_0", "Q4_0": "Q4_0"}[path.stem.split("-")[-1]] in facts["tensors"]


def test_a_broken_merge_is_blocked(trained, tmp_path, monkeypatch):
    kept = exports.merge

    def broken(model):
        kept(model)
        with torch.no_grad():
            model.model.layers[1].self_attn.o_proj.weight.mul_(1.1)
        return model

    monkeypatch.setattr(exports, "merge", broken)
    with pytest.raises(OutputError, match="the export is blocked: merged says something else"):
        export(trained, tmp_path / "to")
    with pytest.raises(OutputError, match="the export is blocked"):
        export(trained, tmp_path / "to", form="gguf")
    assert not any(tmp_path.iterdir())


def test_a_model_that_is_written_wrongly_is_blocked(trained, tmp_path, monkeypatch):
    kept = exports.save_model

    def broken(model, folder, *arguments, **named):
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight *= 1.2
        kept(model, folder, *arguments, **named)

    monkeypatch.setattr(exports, "save_model", broken)
    with pytest.raises(OutputError, match="written and loaded again says something else"):
        export(trained, tmp_path / "to")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_a_wrong_template_is_blocked(trained, tmp_path, monkeypatch, form):
    wrong = exports.DEFAULT_TEMPLATE.replace("<|user|>", "<|user|>\n")
    monkeypatch.setattr(exports, "DEFAULT_TEMPLATE", wrong)
    with pytest.raises(OutputError, match="chat template gives other ids"):
        export(trained, tmp_path / "to", form=form)
    assert not any(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(trained, tmp_path, monkeypatch):
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("save_model", "model_card", "sync_and_digest"):
        with monkeypatch.context() as patch:
            patch.setattr(exports, name, full)
            with pytest.raises(OutputError, match=r"cannot write .*to: No space left"):
                export(trained, tmp_path / "to")
        assert not any(tmp_path.iterdir())


def test_what_is_there_is_kept_but_for_an_earlier_export_with_force(trained, tmp_path, monkeypatch):
    target = tmp_path / "to"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputError, match="and is no export"):
            export(trained, target, force=force)
    shutil.rmtree(target)
    target.mkdir()
    export(trained, target)  # an empty folder is nobody's
    before = (target / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="exists already") as refused:
        export(trained, target, form="adapter")
    assert "--force" in str(refused.value)
    with monkeypatch.context() as patch:
        patch.setattr(exports, "model_card", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(trained, target, form="adapter", force=True)
    assert (target / "model.safetensors").read_bytes() == before
    export(trained, target, form="adapter", force=True)
    assert not (target / "model.safetensors").exists() and (target / "adapter_config.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


def test_what_does_not_go_together_is_refused(trained, tmp_path, out):
    for more in ({"bits": 8}, {"with_adapter": False}):
        with pytest.raises(ConfigError, match="as it was trained"):
            export(trained, tmp_path / "to", form="adapter", **more)
    with pytest.raises(ConfigError, match="bits must be"):
        export(trained, tmp_path / "to", bits=5)
    with pytest.raises(ArtifactError, match="does not exist"):
        export(tmp_path / "nowhere", tmp_path / "to")
    shutil.rmtree(out / "artifacts" / "adapter")
    with pytest.raises(ArtifactError, match="holds no adapter: none was trained"):
        export(out, tmp_path / "to", form="adapter")


def test_what_descends_from_a_withdrawn_document_stays(out, tmp_path):
    forget(out, ["file:docs/7.txt"], why="its author asked")
    for form in ("merged", "adapter", "gguf"):
        with pytest.raises(ArtifactError, match="withdrawn"):
            export(out, tmp_path / "to", form=form)
    with pytest.raises(ArtifactError, match="withdrawn"):
        export(out, tmp_path / "to", with_adapter=False)
    assert not (tmp_path / "to").exists()


def test_a_model_whose_tainted_corpus_was_deleted_stays(out, tmp_path):
    corpus = find_source(out).ancestors[0]
    mark(out, {corpus.id: (corpus, {"some-document"})})
    shutil.rmtree(corpus.path)
    with pytest.raises(ArtifactError, match="descends from a corpus with withdrawn documents, which is deleted"):
        export(out, tmp_path / "to")


@pytest.mark.parametrize(
    ("rights", "said"),
    [({"deny": ["MIT"]}, "the licence MIT .licence-denied."), ({"consent": ["by-licence"]}, "consent 'granted'")],
)
def test_what_the_policy_of_the_run_now_refuses_stays(out, tmp_path, rights, said):
    table = json.loads((out / "run.json").read_text())
    table["run"]["data"]["rights"] |= rights
    (out / "run.json").write_text(json.dumps(table))
    with pytest.raises(ArtifactError, match=f"20 of its documents have {said}"):
        export(out, tmp_path / "to")


def test_the_card_says_what_the_artifacts_say(trained, tmp_path):
    export(trained, tmp_path / "to")
    card = (tmp_path / "to" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    source = find_source(trained)
    scores = source.scores()["language_model"]["perplexity"]
    assert front["license"] == "other" and front["license_name"] == "mixed"  # nobody said what the examples are under
    assert front["library_name"] == "transformers" and {"perplexity", "token_f1"} <= set(front["metrics"])
    assert "base_model" not in front and "datasets" not in front
    said = [
        *("| docs | MIT | granted | 20 | 100.0 % |", "| consent | granted | 20 |", "MIT: 20 documents"),
        f"| {scores['value']:.4g} | {scores['low']:.4g} to {scores['high']:.4g} |",
        *("interpolated modified Kneser-Ney", source.scores()["memorisation"]["verdict"], source.adapter.id),
        *("| adapter | ", " | not measured | not measured |", "fairness of what it says: not measured"),
        *("asked.jsonl", "(at most 0.001)", "from_pretrained(FOLDER)", "before fine-tuning"),
    ]
    assert not [text for text in said if text not in card]
    assert str(trained.parent) not in card


def test_the_card_of_one_known_licence_names_it_and_other_bases_are_told(out, tmp_path):
    export(out, tmp_path / "to", with_adapter=False)
    front = yaml.safe_load((tmp_path / "to" / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "mit" and "license_name" not in front
    table = json.loads((out / "run.json").read_text())
    table["run"]["base"]["model"] = "/home/somebody/models/theirs"
    table["run"]["model"] = {}
    table["run"]["tokenizer"] = {}
    table["run"]["finetuning"]["quantise"] = "nf4"
    (out / "run.json").write_text(json.dumps(table))
    export(out, tmp_path / "other")
    card = (tmp_path / "other" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "other" and "base_model" not in front
    assert "/home" not in card and "the base model theirs" in card and "over a base in nf4" in card
    table["run"]["base"]["model"] = "hub:someone/something"
    (out / "run.json").write_text(json.dumps(table))
    export(out, tmp_path / "third")
    front = yaml.safe_load((tmp_path / "third" / "README.md").read_text().split("---\n")[1])
    assert front["base_model"] == "someone/something"


def test_a_card_without_scores_says_so(out, tmp_path):
    shutil.rmtree(out / "artifacts" / "evaluation")
    shutil.rmtree(out / "artifacts" / "tokens")
    export(out, tmp_path / "to", form="gguf", with_adapter=False)
    card = (tmp_path / "to" / "README.md").read_text()
    assert "## How good it is\n\nNot measured." in card and "## What it memorised\n\nNot measured." in card
    front = yaml.safe_load(card.split("---\n")[1])
    assert "metrics" not in front and "llama-cli -m tiny-" in card


def test_beams_are_written_for_programs_that_go_by_them(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 1}')
    run = SimpleNamespace(generation=SamplingConfig(beams=4, length_penalty=0.6))
    exports._write_generation(SimpleNamespace(source=SimpleNamespace(run=run)), tmp_path)
    told = json.loads((tmp_path / "generation_config.json").read_text())
    assert told == {"eos_token_id": 1, "max_new_tokens": 160, "num_beams": 4, "length_penalty": 0.6}
