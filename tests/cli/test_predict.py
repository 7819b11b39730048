"""`preceptor predict`: what fine-tuned models of every task say of texts, of files and of what is piped in."""

import io
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from tuning import make_decoder, make_encoder, make_encoder_decoder, pipeline, write_rows

from preceptor import cli
from preceptor.recipes.predict import load_predictor
from preceptor.recipes.questions import Asked
from preceptor.recipes.report import write_run_file

MAKERS = {"encoder": make_encoder, "decoder": make_decoder, "encoder_decoder": make_encoder_decoder}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a run that has learned from examples, made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(recipe: str, name: str, family: str, *overrides: str) -> Path:
        key = f"{name}-{family}"
        if key not in made:
            base = folder / family
            if not base.is_dir():
                MAKERS[family](base)
            run = pipeline(recipe, base, write_rows(folder, name), folder / key, *overrides)
            run.adapter()
            write_run_file(run.run, run.out)
            made[key] = folder / key
        return made[key]

    return run


@pytest.fixture
def call(monkeypatch, capsys):
    def called(*words, stdin: str = ""):
        monkeypatch.setattr(sys, "argv", ["preceptor", "predict", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        said = capsys.readouterr()
        return leaving.value.code, said.out, said.err

    return called


def parsed(called) -> list[dict]:
    code, out, err = called
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_a_class_comes_with_its_probability(runs, call):
    out = runs("classify", "classify", "encoder")
    code, line, err = call("the amber is lovely", "--out", out)
    assert code == 0, err
    label, share, percent = line.split()
    assert label in ("good", "bad") and 50 <= float(share) <= 100 and percent == "%"
    first, second = parsed(call("the amber is lovely", "the birch is dull", "--out", out, "--json"))
    assert first["label"] == label and first["probability"] == max(first["probabilities"].values())
    assert sum(second["probabilities"].values()) == pytest.approx(1)
    lines = call("the amber is lovely", "the birch is dull", "--out", out)[1].splitlines()
    assert [each.split("\t")[1] for each in lines] == ["the amber is lovely", "the birch is dull"]


def test_files_of_every_kind_and_what_is_piped_in_are_read_alike(runs, call, tmp_path):
    out = runs("classify", "classify", "encoder")
    texts = ["the amber is lovely", "the birch is dull", "the cedar, was: fine"]
    expected = parsed(call(*texts, "--out", out, "--json"))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "a.csv").write_text("id,text\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(texts)))
    (tmp_path / "a.tsv").write_text("sentence\tlabel\n" + "".join(f"{text}\tgood\n" for text in texts))
    (tmp_path / "a.txt").write_text("\n\n".join(texts) + "\n")
    for name in ("a.jsonl", "a.csv", "a.tsv", "a.txt"):
        assert parsed(call("--file", tmp_path / name, "--out", out, "--json")) == expected, name
    assert parsed(call("--file", "-", "--out", out, "--json", stdin="\n".join(texts))) == expected


def test_several_classes_or_none_and_pairs(runs, call):
    out = runs("classify", "labels", "encoder")
    (said,) = parsed(call("the amber is lovely", "--out", out, "--json"))
    assert said["labels"] == [name for name, share in said["probabilities"].items() if share > 0.5]
    pairs = runs("classify", "pairs", "encoder")
    one, other = (
        parsed(call("the amber is fine", "--second", second, "--out", pairs, "--json"))[0]
        for second in ("it is lovely", "it is not so at all and was never")
    )
    assert one["label"] in ("entailment", "contradiction") and one["probabilities"] != other["probabilities"]


def test_numbers_and_tags(runs, call, tmp_path):
    assert float(call("the amber is fine", "--out", runs("regress", "regress", "encoder"))[1]) == pytest.approx(
        0, abs=99
    )
    out = runs("tag", "tag", "encoder")
    (said,) = parsed(call("the amber is fine", "--out", out, "--json"))
    assert said["words"] == ["the", "amber", "is", "fine"]
    assert set(said["tags"]) <= {"O", "B-TREE", "B-MOOD", "I-MOOD"} and len(said["tags"]) == 4
    words = tmp_path / "words.jsonl"
    words.write_text(json.dumps({"tokens": ["the", "amber", "is", "fine"]}))
    assert parsed(call("--file", words, "--out", out, "--json")) == [said]
    # What does not fit into the context is shown without a tag.
    (long,) = parsed(call("amber " * 200, "--out", out, "--json"))
    assert long["tags"][0] and long["tags"][-1] is None and len(long["tags"]) == 200
    assert call("amber " * 200, "--out", out)[1].strip().endswith("amber/-")


def test_an_answer_is_found_in_a_text_longer_than_the_window(runs, call, tmp_path):
    out = runs("answer", "answer", "encoder")
    text = "  the birch was here . " * 60
    (said,) = parsed(call(text, "--question", "how is the birch?", "--out", out, "--json"))
    start = said["start"]
    assert said["answer"] == ("" if start is None else text[start : start + len(said["answer"])])
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "how is the birch?", "context": text}))
    assert parsed(call("--file", rows, "--out", out, "--json")) == [said]
    code, _, err = call(text, "--out", out)
    assert code and "there is no question" in err and "--question" in err


@pytest.mark.parametrize(
    ("name", "family", "row"),
    [
        ("translate", "encoder_decoder", {"source": "the amber is fine"}),
        ("summarise", "decoder", {"document": "the amber is fine"}),
        ("instruct", "decoder", {"messages": [{"role": "user", "content": "the amber is fine"}]}),
        ("prefer", "decoder", {"prompt": "the amber is fine"}),
    ],
)
def test_a_model_that_writes_writes(runs, call, tmp_path, name, family, row):
    out = runs(name, name, family, "generation.max_new_tokens=5")
    (said,) = parsed(call("the amber is fine", "--out", out, "--json"))
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    assert parsed(call("--file", path, "--out", out, "--json")) == [said]
    assert call("the amber is fine", "--out", out)[1].rstrip("\n") == said["text"]


def test_a_file_is_read_and_answered_bit_by_bit(runs):
    predictor, taken = load_predictor(runs("classify", "classify", "encoder")), []

    def asked():
        for number in range(200):
            taken.append(number)
            yield Asked(f"the amber is {number}")

    for number, (each, said) in enumerate(predictor.predict(asked())):
        assert each.text == f"the amber is {number}" and said["label"] in ("good", "bad")
        assert len(taken) <= number + 64
    assert len(taken) == number + 1 == 200


def test_what_stands_before_a_row_that_cannot_be_read_is_answered(runs, call, tmp_path):
    out, rows = runs("classify", "classify", "encoder"), tmp_path / "rows.jsonl"
    good = "".join(json.dumps({"text": f"the amber is {number}"}) + "\n" for number in range(70))
    rows.write_text(good + "{torn\n" + good)
    code, said, err = call("--file", rows, "--out", out, "--json")
    assert code == 1 and "line 71" in err and "To fix it" in err
    assert [json.loads(line)["text"] for line in said.splitlines()] == [f"the amber is {n}" for n in range(70)]
    rows.write_text("{torn\n" + good)
    code, said, err = call("--file", rows, "--out", out)
    assert code == 1 and "line 1" in err and not said
    (tmp_path / "empty.txt").write_text("\n\n")
    assert call("--file", tmp_path / "empty.txt", "--out", out)[:2] == (0, "")


def test_beams_may_be_asked_of_a_model_that_is_there(runs, call):
    out = runs("translate", "translate", "encoder_decoder", "generation.max_new_tokens=5")
    texts = ("the amber is fine", "the birch is dull", "the cedar was bright")
    plain, one, four = (parsed(call(*texts, "--out", out, "--json", *more)) for more in (
        (), ("--beams", 1), ("--beams", 4)
    ))  # fmt: skip
    assert plain == one != four
    for name, family, said in (("summarise", "decoder", "one beginning"), ("classify", "encoder", "writes nothing")):
        code, _, err = call("a", "--beams", 2, "--out", runs(name, name, family, "generation.max_new_tokens=5"))
        assert code and said in err and "To fix it" in err


def test_what_cannot_be_asked_is_told_with_what_to_do(runs, call, tmp_path):
    out = runs("classify", "classify", "encoder")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n{"review": "b"}\n')
    for words, said in [
        (("a", "--out", tmp_path / "gone"), "does not exist"),
        (("--out", out), "no text to ask about"),
        (("a", "--file", rows, "--out", out), "exclude each other"),
        ((" ", "--out", out), "is empty"),
        (("--file", tmp_path / "gone.csv", "--out", out), "gone.csv"),
        (("--file", rows, "--out", out), "line 2: found the columns review"),
    ]:
        code, _, err = call(*words)
        assert code and said in err and "To fix it" in err, err


def test_a_run_that_was_not_fine_tuned_has_no_task(runs, call, tmp_path):
    base = runs("classify", "classify", "encoder").parent / "encoder"
    made = pipeline("classify", base, write_rows(tmp_path, "classify"), tmp_path / "out")
    made.checkpoint()
    code, _, err = call("a", "--out", tmp_path / "out")
    assert code and "holds no fine-tuned model" in err and "preceptor finetune" in err
