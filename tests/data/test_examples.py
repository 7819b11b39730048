"""Examples: read in the shapes people have, and split so that no group is on both sides."""

import gzip
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preceptor.core.errors import ConfigError, DataError, EmptyDataError
from preceptor.data.example_shapes import SHAPES
from preceptor.data.example_types import (
    AnswerExample,
    ClassExample,
    Conversation,
    Message,
    NumberExample,
    PairExample,
    PreferenceExample,
    TaggedExample,
)
from preceptor.data.examples import conversations, read_examples, split_examples, summary
from preceptor.data.spdx import normalise_licence


def lines(path, rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def first_of(path, *rows, **settings):
    found = read_examples(lines(path / "examples.jsonl", rows), **settings)
    return found, found.examples[0]


def turns(example):
    return [(each.role, each.content) for each in example.messages]


def test_a_licence_is_an_spdx_expression_or_is_refused():
    assert normalise_licence("apache-2.0 or mit", "here") == "Apache-2.0 OR MIT"
    assert normalise_licence("Unknown", "here") == "unknown"
    with pytest.raises(ConfigError, match=r"here.*free as in beer"):
        normalise_licence("free as in beer", "here")


def test_no_group_is_on_both_sides_of_a_split():
    examples = [Conversation.of(f"q{n}", "a", group=f"group{n % 40}") for n in range(200)]
    train, held_out = split_examples(examples, 1, 0.25)
    assert len(train) + len(held_out) == 200 and held_out
    assert {e.group for e in train}.isdisjoint(e.group for e in held_out)
    assert split_examples(examples, 2, 0.25)[1] != held_out


def test_the_side_of_a_group_is_the_one_it_always_had():
    """A change of the derivation would put what was held out into training."""
    examples = [Conversation.of(f"q{n}", "a") for n in range(12)]
    assert [e.question for e in split_examples(examples, 0, 0.3)[1]] == ["q3", "q4"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"question": "q", "answer": ""}', ":1: answer is empty"),
        ('{"question": " ", "answer": "a"}', ":1: question is empty"),
        ('{"question": "q", "answer": 5}', ":1: answer is a number, not text"),
        ('{"ask": "q"}', r"(?s)line 1: found the columns ask; expected one of.*instruct: .*question and answer"),
        ('{"question": "q", "answer": "a"}\n{"question"', ":2: broken JSON.*1 of 2 rows"),
        ("", "holds no example"),
        ("[1]", "record 1: expected an object"),
        ('[{"question": "q", "answer": "a"}] []', "something stands behind the end"),
        ('{"data": [{"question"', "broken JSON"),
    ],
)
@pytest.mark.parametrize("name", ["examples.jsonl", "examples.json"])
def test_examples_that_cannot_be_used_are_named(tmp_path, content, words, name):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=words) as raised:
        read_examples(path)
    assert str(path) in raised.value.message and raised.value.remedy


def test_a_broken_line_among_good_ones_loses_no_other(tmp_path):
    rows = [{"question": f"q{n}", "answer": "a"} for n in range(60)]
    rows[30], rows[40] = '{"question": "q', {"question": "q", "answer": None}
    found = read_examples(lines(tmp_path / "examples.jsonl", rows))
    assert len(found.examples) == 58 and found.examples[30].question == "q31"
    assert [place for place, _ in found.rejected] == ["line 31", "line 41"]
    assert "broken JSON" in found.rejected[0][1] and found.rejected[1][1] == "answer is missing"
    assert found.examples[0].place == "examples.jsonl, line 1"
    with (tmp_path / "examples.jsonl").open("ab") as file:
        file.write(b'\n{"question": "q", "answer": "\xff"}\n' * 2)
    with pytest.raises(DataError, match=r"examples\.jsonl:31: broken JSON.*4 of 62 rows"):
        read_examples(tmp_path / "examples.jsonl")


def test_a_file_of_rows_that_are_mostly_unfit_is_given_up_early(tmp_path):
    path = lines(tmp_path / "examples.jsonl", [{"question": "q", "answer": ""}] * 5000)
    with pytest.raises(DataError, match="1,000 of 1,000 rows"):
        read_examples(path)


def test_questions_and_answers_in_the_shapes_people_have(tmp_path):
    _, example = first_of(tmp_path, {"prompt": "p", "completion": "c", "group": "g", "kind": "k"})
    assert (example.question, example.answer, example.group, example.kind) == ("p", "c", "g", "k")
    found, example = first_of(tmp_path, {"instruction": "i", "input": "n", "output": "o", "system": "s"})
    assert found.task == "instruct" and found.shape == "alpaca"
    assert turns(example) == [("system", "s"), ("user", "i\nn"), ("assistant", "o")] and example.group == "i\nn"
    history = [["q1", "a1"], ["q2", "a2"]]
    _, example = first_of(tmp_path, {"instruction": "i", "input": "", "output": "o", "history": history})
    assert [content for _, content in turns(example)] == ["q1", "a1", "q2", "a2", "i", "o"]
    said = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    found, example = first_of(tmp_path, {"conversations": said})
    assert found.shape == "ShareGPT" and turns(example) == [("system", "s"), ("user", "q"), ("assistant", "a")]
    said = [
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
        {"role": "assistant", "content": "a", "weight": 0},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "b", "weight": 1},
        {"role": "user", "content": "never answered"},
    ]
    _, example = first_of(tmp_path, {"messages": said})
    assert example.messages[1] == Message("assistant", "a", trains=False)
    assert example.answer == "b" and example.messages[3].trains and len(example.messages) == 4
    _, example = first_of(tmp_path, {"prompt": said[:1], "completion": [{"role": "assistant", "content": "a"}]})
    assert turns(example) == [("user", "q"), ("assistant", "a")]
    _, example = first_of(tmp_path, {"prompt": "As JSON, please.", "completion": '[{"a": 1}]'})
    assert example.answer == '[{"a": 1}]'
    found, example = first_of(tmp_path, {"instruction": "i", "context": "c", "response": "o", "category": "x"})
    assert found.shape == "Dolly" and example.question == "i\nc" and example.answer == "o"
    _, example = first_of(tmp_path, {"system_prompt": "s", "question": "q", "response": "a"})
    assert turns(example) == [("system", "s"), ("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hello", "messages is text, not a list"),
        (["hello"], "message 1 is text, not an object"),
        ([{"role": "king", "content": "x"}], 'role of message 1 is "king"'),
        ([{"role": "user", "content": "x"}], "no answer to learn from"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}], "answer is empty"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "a", "weight": 0}], "no answer"),
        ([{"role": "user", "content": [{"type": "image"}]}], "part that is no text"),
        ([{"role": "assistant", "content": "a", "weight": 2}], "weight of message 1 is 2"),
    ],
)
def test_messages_that_are_none_are_refused(tmp_path, messages, words):
    with pytest.raises(DataError, match=words):
        first_of(tmp_path, {"messages": messages})


def test_texts_with_labels(tmp_path):
    rows = [{"text": f"t{n}", "label": "yes" if n % 2 else "no"} for n in range(10)]
    found, example = first_of(tmp_path, *rows)
    assert found.task == "classify" and found.labels == ("no", "yes") and not found.multi_label
    assert isinstance(example, ClassExample) and (example.text, example.second, example.labels) == ("t0", None, ("no",))
    found, example = first_of(tmp_path, {"sentence": "t", "labels": ["b", "a"]}, {"sentence": "u", "labels": []})
    assert found.multi_label and example.labels == ("b", "a") and found.examples[1].labels == ()
    pairs = [{"premise": "p", "hypothesis": "h", "label": 2}, {"premise": "P ", "hypothesis": "i", "label": 10}]
    found, example = first_of(tmp_path, *pairs)
    assert found.labels == ("2", "10") and (example.text, example.second) == ("p", "h")
    assert found.examples[1].group == example.group and "whole numbers" in found.notes[0]
    with pytest.raises(DataError, match="label is empty"):
        first_of(tmp_path, {"text": "t", "label": " "})
    mixed = [{"text": f"t{n}", "label": ["a"]} for n in range(40)] + [{"text": "t", "label": "a"}]
    found, _ = first_of(tmp_path, *mixed)
    assert found.rejected == (("line 41", "label is text, where the first row and others have lists"),)


@pytest.mark.parametrize(
    ("values", "task", "chosen", "labels"),
    [
        ([0.5, 1, 3.25], "auto", "regress", ()),
        (["0.5", "-1"], "auto", "regress", ()),
        ([1.0, 2.0], "auto", "regress", ()),
        ([1.0, 2.0], "classify", "classify", ("1", "2")),
        ([0, 1, 1], "auto", "classify", ("0", "1")),
        (["3", "10"], "auto", "classify", ("3", "10")),
        ([0, 1, 1], "regress", "regress", ()),
        ([True, False], "auto", "classify", ("false", "true")),
        ([number * 3 for number in range(30)], "auto", "regress", ()),
        ([number % 30 for number in range(300)], "auto", "classify", tuple(map(str, range(30)))),
        ([[1.5, 2], [0.5, 1]], "auto", "regress", ()),
    ],
)
def test_whether_labels_are_classes_or_numbers(tmp_path, values, task, chosen, labels):
    rows = [{"text": f"t{n}", "score": value} for n, value in enumerate(values)]
    found, example = first_of(tmp_path, *rows, task=task)
    assert found.task == chosen and found.labels == labels
    assert isinstance(example, NumberExample if chosen == "regress" else ClassExample)
    if chosen == "regress":
        wanted = values[0] if isinstance(values[0], list) else [values[0]]
        assert list(example.targets) == [float(value) for value in wanted]
    is_told = task == "auto" and not isinstance(values[0], bool)
    assert bool(found.notes) == is_told


def test_numbers_that_are_none_are_rejected(tmp_path):
    rows = [{"text": f"t{n}", "score": n / 7} for n in range(1, 50)]
    found, _ = first_of(tmp_path, *rows, {"text": "t", "score": "many"})
    assert found.rejected == (("line 50", "score is 'many', not a number"),)


def test_questions_asked_of_a_text(tmp_path):
    context = "The cat sat on the mat."
    asked = {"question": "Who?", "context": context}
    for answers in (
        {"answers": {"text": ["cat", "The cat"], "answer_start": [4, 0]}},
        {"answers": [{"text": "cat", "answer_start": 4}, {"text": "The cat", "answer_start": 0}]},
        {"answers": ["cat", "The cat"]},
    ):
        found, example = first_of(tmp_path, asked | answers)
        assert found.task == "answer" and isinstance(example, AnswerExample)
        assert example.answers == (("cat", 4), ("The cat", 0)) and example.group == context
    assert first_of(tmp_path, asked | {"answer": "the mat"})[1].answers == (("the mat", 15),)
    assert first_of(tmp_path, asked | {"answers": {"text": [], "answer_start": []}})[1].answers == ()
    for answers, words in (
        ({"answer": "dog"}, "'dog' does not stand in the context"),
        ({"answer": ""}, "answer is empty"),
        ({"answers": {"text": ["cat"], "answer_start": [5]}}, "at answer_start 5 .* no 'cat'"),
        ({"answers": {"text": ["cat"], "answer_start": []}}, "1 answers and 0 places"),
        ({"answers": {"text": ["cat"], "answer_start": ["x"]}}, "not the number of a character"),
    ):
        with pytest.raises(DataError, match=words):
            first_of(tmp_path, asked | answers)
    found, example = first_of(tmp_path, asked | {"answer": "dog"}, task="instruct")
    assert isinstance(example, Conversation) and example.answer == "dog"


def test_a_row_without_its_context_is_no_other_shape(tmp_path):
    rows = [{"question": f"q{n}", "context": "a cat", "answer": "cat"} for n in range(40)]
    found, _ = first_of(tmp_path, *rows, {"question": "q", "context": None, "answer": "cat"})
    assert found.rejected == (("line 41", "context is missing"),)
    with pytest.raises(DataError, match="line 1 is question/context/answer, and line 41 is question/answer"):
        first_of(tmp_path, *rows, {"question": "q", "answer": "cat"})


def test_squad_as_it_is_published(tmp_path):
    questions = [
        {"id": "1", "question": "Who?", "answers": [{"text": "cat", "answer_start": 4}], "is_impossible": False},
        {"id": "2", "question": "Why?", "answers": [], "is_impossible": True},
    ]
    article = {"title": "Cats", "paragraphs": [{"context": "The cat sat.", "qas": questions}]}
    path = tmp_path / "dev-v2.0.json"
    path.write_text(json.dumps({"version": "v2.0", "data": [article, article]}, indent=1))
    found = read_examples(path)
    assert found.task == "answer" and found.shape == "SQuAD" and len(found.examples) == 4
    assert found.examples[0].answers == (("cat", 4),) and found.examples[1].answers == ()
    assert found.examples[3].place == "dev-v2.0.json, record 2, paragraph 1, question 2"


def test_pairs_of_texts(tmp_path):
    found, example = first_of(tmp_path, {"translation": {"en": "one", "de": "eins"}})
    assert found.task == "translate" and isinstance(example, PairExample)
    assert (example.source, example.target) == ("one", "eins")
    columns = {"source": "translation.de", "target": "translation.en"}
    _, example = first_of(tmp_path, {"translation": {"en": "one", "de": "eins", "fr": "un"}}, columns=columns)
    assert (example.source, example.target) == ("eins", "one")
    assert first_of(tmp_path, {"source": "s", "target": "t"})[0].task == "translate"
    assert first_of(tmp_path, {"source": "s", "target": "t"}, task="summarise")[0].task == "summarise"
    for row in ({"document": "d", "summary": "s"}, {"article": "d", "highlights": "s"}, {"text": "d", "summary": "s"}):
        found, example = first_of(tmp_path, row)
        assert found.task == "summarise" and (example.source, example.target) == ("d", "s")


def test_words_with_tags(tmp_path):
    found, example = first_of(tmp_path, {"tokens": ["Ann", "sat"], "ner_tags": ["B-PER", "O"]})
    assert found.task == "tag" and isinstance(example, TaggedExample) and found.labels == ("B-PER", "O")
    assert example.words == ("Ann", "sat") and example.tags == ("B-PER", "O")
    with pytest.raises(DataError, match="2 tokens and 1 tags"):
        first_of(tmp_path, {"tokens": ["Ann", "sat"], "tags": ["O"]})


def test_conll_files(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("-DOCSTART- -X- O\n\nAnn NNP B-PER\nsat VBD O\n\n\nThe DT O\n")
    found = read_examples(path)
    assert [(each.words, each.tags) for each in found.examples] == [
        (("Ann", "sat"), ("B-PER", "O")),
        (("The",), ("O",)),
    ]
    assert [each.place for each in found.examples] == ["train.txt, line 3", "train.txt, line 7"]
    assert read_examples(path, columns={"tags": "2"}).labels == ("DT", "NNP", "VBD")
    path = tmp_path / "train.tsv"
    path.write_bytes(b"a\tO\nb\tX\n\n" * 50 + b"bad\n\na\xff\tO\n\n")
    found = read_examples(path)
    assert len(found.examples) == 50 and [place for place, _ in found.rejected] == ["line 151", "line 153"]
    assert "one column" in found.rejected[0][1] and "not UTF-8" in found.rejected[1][1]
    path = tmp_path / "en.conllu"
    head = "# text = It's\n1-2\tIt's\t_\t_\t_\t_\t_\t_\t_\t_\n"
    path.write_text(head + "1\tIt\tit\tPRON\t_\t_\t_\t_\t_\t_\n2\t's\tbe\tAUX\t_\t_\t_\t_\t_\t_\n\n")
    assert read_examples(path).examples[0].tags == ("PRON", "AUX")


def test_the_better_of_two_answers(tmp_path):
    found, example = first_of(tmp_path, {"prompt": "p", "chosen": "c", "rejected": "r", "system": "s"})
    assert found.task == "prefer" and isinstance(example, PreferenceExample)
    assert turns(example) == [("system", "s"), ("user", "p")] and (example.chosen, example.rejected) == ("c", "r")
    asked = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}]
    chosen, rejected = ([*asked, {"role": "assistant", "content": text}] for text in ("c", "r"))
    _, example = first_of(tmp_path, {"prompt": "p", "chosen": chosen, "rejected": rejected})
    assert [content for _, content in turns(example)] == ["p", "a", "q"] and example.rejected == "r"
    _, example = first_of(tmp_path, {"prompt": asked, "chosen": chosen[-1:], "rejected": rejected[-1:]})
    assert len(example.messages) == 3 and example.chosen == "c"
    for row, words in (
        ({"chosen": "c", "rejected": "r"}, "prompt is missing"),
        ({"prompt": "p", "chosen": "c", "rejected": "c"}, "are the same"),
        ({"chosen": chosen, "rejected": rejected[1:]}, "differ in more than the last answer"),
    ):
        with pytest.raises(DataError, match=words):
            first_of(tmp_path, row)


def test_tables(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(',text,label\n0,"a, b\nc",x\n1,d,y\n' + "2,e,x\n" * 40 + "3,e\n", encoding="utf-8")
    found = read_examples(path)
    assert found.examples[0].text == "a, b\nc" and found.examples[1].place == "a.csv, line 4"
    assert found.rejected == (("line 45", "broken CSV: 2 fields where the first row names 3"),)
    path.write_text("text;label\na;x\nb;y\n")
    assert [each.labels for each in read_examples(path).examples] == [("x",), ("y",)]
    path = tmp_path / "a.tsv"
    path.write_text("sentence\tlabel\na\tx\nb\ty\n")
    assert read_examples(path).shape == "sentence/label"
    path.write_bytes(b"text\tlabel\n\xe4\tx\n")
    with pytest.raises(DataError, match=r"a\.tsv:2: .*not UTF-8"):
        read_examples(path)
    said = json.dumps([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]).replace('"', '""')
    path = tmp_path / "chat.csv"
    path.write_text(f'messages\n"{said}"\n')
    assert read_examples(path).examples[0].answer == "a"


def test_parquet_with_the_names_of_its_classes(tmp_path):
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}, "text": {"_type": "Value"}}
    table = pyarrow.table({"text": ["a", "b", None], "label": [1, 0, 1]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pyarrow.parquet.write_table(table.slice(0, 2).replace_schema_metadata(metadata), tmp_path / "a.parquet")
    found = read_examples(tmp_path / "a.parquet")
    assert found.labels == ("neg", "pos") and found.examples[0].labels == ("pos",)
    tags = pyarrow.table({"tokens": [["a", "b"]] * 3, "ner_tags": [[0, 1]] * 3})
    pyarrow.parquet.write_table(tags, tmp_path / "b.parquet")
    assert read_examples(tmp_path / "b.parquet").examples[0].tags == ("0", "1")
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    with pytest.raises(DataError, match="row 3: text is missing"):
        read_examples(tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match="broken Parquet"):
        read_examples(tmp_path / "d.parquet")


def test_json_with_the_list_inside_and_packed_lines(tmp_path):
    rows = [{"question": f"q{n}", "answer": "a"} for n in range(3)]
    path = tmp_path / "a.json"
    for text in (
        json.dumps(rows),
        json.dumps({"version": 1, "data": rows}),
        json.dumps({"data": rows}, indent=2),
        "\n".join(map(json.dumps, rows)),
    ):
        path.write_text(text)
        assert [each.question for each in conversations(read_examples(path))] == ["q0", "q1", "q2"]
    said = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    path.write_text(json.dumps(said, indent=1))
    assert read_examples(path).examples[0].answer == "a"
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(rows[0]).encode()))
    assert len(read_examples(path).examples) == 1
    path = tmp_path / "a.bin"
    path.write_bytes(b"\x00\x01")
    with pytest.raises(DataError, match="its name and its first bytes"):
        read_examples(path)


def test_columns_by_other_names(tmp_path):
    row = {"review": "good", "stars": 5, "label": "unused"}
    found, example = first_of(tmp_path, row, columns={"text": "review", "label": "stars"})
    assert example.text == "good" and example.labels == ("5",) and found.shape == "text/label"
    with pytest.raises(DataError, match=r"line 1: found the columns review, stars; expected one of") as raised:
        first_of(tmp_path, {"review": "good", "stars": 5})
    assert 'finetuning.columns = {text = "review"}' in raised.value.remedy
    with pytest.raises(ConfigError, match="'txt', which is no name of ours"):
        first_of(tmp_path, row, columns={"txt": "review"})
    with pytest.raises(DataError, match=r"(?s)they are text/label.*for the task classify or regress.*for the task tag"):
        first_of(tmp_path, {"text": "t", "label": "x"}, task="tag")


def test_mixed_shapes_are_refused_with_the_first_row_of_each(tmp_path):
    rows = [{"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": "c"}, {"question": "q", "answer": "a"}]
    with pytest.raises(DataError, match=r"jsonl:3: line 1 is prompt/completion, and line 3 is question/answer"):
        first_of(tmp_path, *rows)


def test_a_set_in_one_line(tmp_path):
    rows = [{"text": f"one two t{n}", "label": "ab"[n % 2]} for n in range(40)]
    found, _ = first_of(tmp_path, *rows, {"text": "t", "label": ""})
    said = summary(found)
    assert said == "41 rows, text/label, 2 classes, 50/50, median 3 words, 1 row rejected: line 41: label is empty"
    assert "median 9 tokens" in summary(found, lambda text: 9)
    found, _ = first_of(tmp_path, {"text": "a b", "score": 0.5}, {"text": "a", "score": 2})
    assert summary(found) == "2 rows, text/score, numbers from 0.5 to 2, median 2 words"
    found, _ = first_of(tmp_path, {"tokens": ["Ann", "sat"], "tags": ["B-PER", "O"]})
    assert summary(found) == "1 row, tokens/tags, 2 tags, 2 words, median 2 words"
    found, _ = first_of(tmp_path, {"question": "q", "answer": "a"})
    with pytest.raises(EmptyDataError):
        read_examples(lines(tmp_path / "empty.jsonl", [""]))
    assert conversations(found)[0].answer == "a"


def test_every_sample_in_the_docs_is_of_the_task_it_stands_beside(tmp_path):
    page = (Path(__file__).resolve().parents[2] / "docs" / "examples.md").read_text(encoding="utf-8")
    samples = re.findall(r"^\| ([a-z, ]+) \| .* \| `(\{.*\})` \|$", page, re.MULTILINE)
    assert len(samples) >= 14
    for tasks, sample in samples:
        if "..." not in sample:
            found, _ = first_of(tmp_path, sample)
            assert found.task in tasks.split(", ")[:1], sample


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["user", "a", "1.5"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "text", "answer_start", "de"]), inner)
    ),
    max_leaves=5,
)


def rows_of(shape):
    """Rows with the columns of a shape, or at times with others, that hold anything."""
    columns = {names[0]: json_values for names in shape.columns}
    names = {"group", "kind", "system", "history", "answer_start", "prompt", "paragraphs"} - columns.keys()
    more = dict.fromkeys(sorted(names), json_values)
    return st.lists(st.fixed_dictionaries(columns, optional=more) | json_values, min_size=1, max_size=2)


@given(st.sampled_from(SHAPES).flatmap(rows_of), st.sampled_from(["jsonl", "json"]))
@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_whatever_json_holds_is_read_or_refused_with_what_to_do(tmp_path, rows, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_text("\n".join(map(json.dumps, rows)) if suffix == "jsonl" else json.dumps(rows))
    read_or_refused(path)


@given(
    st.binary(max_size=200) | st.text(st.sampled_from('{}[]",:;\t\n\r\0 ae1'), max_size=80).map(str.encode),
    st.sampled_from(["jsonl", "json", "csv", "tsv", "txt", "conllu", "parquet", "jsonl.gz", ""]),
)
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_a_file_has_it_is_read_or_refused_with_what_to_do(tmp_path, content, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    read_or_refused(path)


def read_or_refused(path):
    try:
        found = read_examples(path)
    except DataError as error:
        assert str(path) in error.message and error.remedy
    else:
        assert found.examples and summary(found)


def test_quotes_in_a_table_of_tabs_are_text_where_they_hold_nothing_together(tmp_path):
    loose = tmp_path / "loose.tsv"
    loose.write_text('text\tlabel\n"a lovely" film\tgood\n"dull\tbad\nplain\tgood\n')
    found = read_examples(loose)
    assert [each.text for each in found.examples] == ['"a lovely" film', '"dull', "plain"] and not found.rejected
    closed = tmp_path / "closed.tsv"
    closed.write_text('text\tlabel\n"two\nlines"\tgood\n"say ""no"""\tbad\n')
    assert [each.text for each in read_examples(closed).examples] == ["two\nlines", 'say "no"']
