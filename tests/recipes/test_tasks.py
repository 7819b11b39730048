"""Every task, taught to a tiny base of each family that learns it: from a file of examples to a report."""

import json
import math
from dataclasses import replace

import pytest
from tuning import make_decoder, make_encoder, make_encoder_decoder, pipeline, write_rows

from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.recipes.answering import load_responder
from preceptor.recipes.report import write_report, write_run_file
from preceptor.recipes.summary import summary
from preceptor.recipes.task_evaluation import Asked, evaluate_task
from preceptor.recipes.tuned import load_tuned, task_of
from preceptor.serve.sampling import SamplingConfig
from preceptor.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A tiny model of each family."""
    folder = tmp_path_factory.mktemp("bases")
    return {
        "encoder": make_encoder(folder / "encoder"),
        "decoder": make_decoder(folder / "decoder"),
        "encoder_decoder": make_encoder_decoder(folder / "both"),
    }


QUANTISED = ("finetuning.quantise=nf4",)
RUNS = [
    ("classify", "classify", "encoder", ()),
    ("classify", "classify", "decoder", ("finetuning.adapter.kind=prefix", "finetuning.adapter.num_virtual_tokens=4")),
    ("classify", "labels", "encoder", ("finetuning.adapter.kind=full",)),
    ("classify", "pairs", "encoder", ("finetuning.adapter.kind=prompt", "finetuning.adapter.num_virtual_tokens=4")),
    ("classify", "pairs", "encoder_decoder", ()),
    ("regress", "regress", "encoder", QUANTISED),
    ("regress", "regress", "decoder", ("finetuning.adapter.kind=full",)),
    ("tag", "tag", "encoder", ()),
    ("tag", "tag", "decoder", ("finetuning.adapter.kind=prompt", "finetuning.adapter.num_virtual_tokens=4")),
    ("answer", "answer", "encoder", ()),
    ("answer", "answer", "decoder", ("finetuning.adapter.kind=prefix", "finetuning.adapter.num_virtual_tokens=4")),
    ("translate", "translate", "encoder_decoder", ()),
    ("translate", "translate", "decoder", ("finetuning.adapter.kind=full",)),
    ("summarise", "summarise", "encoder_decoder", ("finetuning.adapter.kind=prefix",)),
    ("summarise", "summarise", "decoder", QUANTISED),
    ("prefer", "prefer", "decoder", ("finetuning.adapter.kind=prompt", "finetuning.adapter.num_virtual_tokens=4")),
    ("prefer", "prefer", "decoder", QUANTISED),
]


@pytest.mark.parametrize(("recipe", "name", "family", "overrides"), RUNS)
def test_a_task_is_learned_judged_and_told(bases, tmp_path, recipe, name, family, overrides):
    examples = write_rows(tmp_path, name)
    made = pipeline(recipe, bases[family], examples, tmp_path / "out", *overrides)
    evaluation, adapter = made.evaluation(), made.adapter()
    table = json.loads(evaluation.file("evaluation.json").read_text())["task"]
    assert table["task"] == recipe and table["examples"] > 0 and table["samples"]
    assert all(math.isfinite(score["value"]) for score in table["scores"])
    assert any(score["baselines"] for score in table["scores"]), "a score says nothing alone"
    learned = task_of(adapter.path)
    assert learned.task == recipe and learned.context_length == made.run.finetuning.context_length
    facts = adapter.facts
    assert facts["num_examples"] + facts["num_held_out_examples"] == 40 and facts["num_examples_too_long"] == 0
    assert learned.quantise == ("nf4" if overrides == QUANTISED else "none")
    write_run_file(made.run, made.out)
    report = write_report(made)
    page = (made.out / "report.html").read_text()
    assert table["scores"][0]["name"].split()[0].lower() in page.lower()
    assert "preceptor predict" in summary(made, report)
    assert said_again(made, learned) == table

    again = pipeline(recipe, bases[family], examples, tmp_path / "out", *overrides)
    assert again.evaluation().id == evaluation.id
    assert all(row.reused for row in again.rows)


def said_again(made, learned):
    """What the model says that the folder of the run holds."""
    base, (train, held_out) = made.checkpoint(), made.examples()
    asked = Asked(
        base=base.path,
        tuned=made.adapter().path,
        tokenizer=Tokenizer.load(base.path),
        train=train,
        held_out=held_out,
        context_length=learned.context_length,
        writing=SamplingConfig(temperature=0.0, max_new_tokens=made.run.evaluation.max_answer_tokens),
        num_questions=made.run.evaluation.num_questions,
        seed=made.run.seed,
    )
    return json.loads(json.dumps(evaluate_task(asked, made.stop)))


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("decoder", ()),
        ("decoder", QUANTISED),
        ("decoder", ("finetuning.adapter.kind=prompt", "finetuning.adapter.num_virtual_tokens=4")),
        ("encoder_decoder", ("finetuning.adapter.kind=full",)),
    ],
)
def test_conversations_with_a_system_message_are_learned(bases, tmp_path, family, overrides):
    examples = write_rows(tmp_path, "instruct")
    made = pipeline("instruct", bases[family], examples, tmp_path / "out", *overrides)
    table = json.loads(made.evaluation().file("evaluation.json").read_text())["question_answering"]
    assert table["questions"] == 4 and len(table["samples"]) == 4
    assert task_of(made.adapter().path).task == "instruct"
    assert made.adapter().facts["num_supervised_tokens"] > 0
    write_run_file(made.run, made.out)
    assert "preceptor chat" in summary(made, write_report(made))
    again = pipeline("instruct", bases[family], examples, tmp_path / "out", *overrides)
    again.evaluation()
    assert all(row.reused for row in again.rows)


def test_the_probabilities_of_a_teacher_are_learned(bases, tmp_path):
    examples = write_rows(tmp_path, "instruct")
    plain = pipeline("instruct", bases["decoder"], examples, tmp_path / "plain")
    teacher = f"finetuning.distil.teacher={bases['decoder']}"
    taught = pipeline("instruct", bases["decoder"], examples, tmp_path / "taught", teacher)
    first, second = plain.adapter(), taught.adapter()
    assert first.id != second.id
    weights = [each.file("adapter_model.safetensors").read_bytes() for each in (first, second)]
    assert weights[0] != weights[1]
    assert load_tuned(taught.checkpoint().path, second.path).config.family == "decoder"


def test_beams_of_the_recipe_write_what_is_judged(bases, tmp_path):
    examples, written = write_rows(tmp_path, "translate"), {}
    learned, half = None, ("finetuning.adapter.kind=full", "finetuning.duration=25 steps")
    half += ("finetuning.optimizer.learning_rate=1e-2", "finetuning.validation_every_steps=100")
    for name, more in (("one", ()), ("four", ("generation.beams=4", "generation.length_penalty=0.0"))):
        made = pipeline("translate", bases["encoder_decoder"], examples, tmp_path / "out", *half, *more)
        table = json.loads(made.evaluation().file("evaluation.json").read_text())["task"]
        written[name] = {each["input"]: each["said"] for each in table["samples"]}
        assert learned in (None, made.adapter().id), "how answers are written is no part of what is learned"
        learned = made.adapter().id
    assert written["one"].keys() == written["four"].keys() and written["one"] != written["four"]
    write_run_file(made.run, made.out)
    looking = load_responder(made.out)
    config = replace(looking.sampling, max_new_tokens=made.run.evaluation.max_answer_tokens)
    assert config.beams == 4
    asked = list(written["four"])
    assert replace(looking, sampling=config).answer_many(asked) == list(written["four"].values())
    assert load_responder(made.out, temperature=0.5).sampling.beams == 1


def test_beams_are_refused_for_a_model_that_has_one_beginning_at_a_time(bases, tmp_path):
    examples = write_rows(tmp_path, "translate")
    made = pipeline("translate", bases["decoder"], examples, tmp_path / "out", "generation.beams=2")
    with pytest.raises(ConfigError, match="'decoder' follows one beginning"):
        made.adapter()


@pytest.mark.parametrize("setting", ["finetuning.class_weights=balanced", "finetuning.label_smoothing=0.2"])
def test_the_loss_of_classes_is_that_of_the_recipe_while_training_and_plain_elsewhere(bases, tmp_path, setting):
    rows = [{"text": f"the amber is fine {n}", "label": "rare" if n % 5 == 0 else "common"} for n in range(40)]
    examples = tmp_path / "rows.jsonl"
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, facts = {}, {}
    for name, more in (("plain", ()), ("set", (setting,))):
        settings = ("finetuning.duration=1 steps", "finetuning.optimizer.learning_rate=1e-12", *more)
        made = pipeline("classify", bases["encoder"], examples, tmp_path / name, *settings)
        facts[name] = made.adapter().facts
        (metrics,) = (made.out / "metrics").glob("finetune-????????????.jsonl")
        first[name] = json.loads(metrics.read_text().splitlines()[0])
    assert first["plain"]["loss"] != first["set"]["loss"]
    assert first["plain"]["validation_loss"] == pytest.approx(first["set"]["validation_loss"], abs=1e-6)
    assert "class_weights" not in facts["plain"]
    if "balanced" in setting:
        rare, common = (sum(row["label"] == name for row in rows) for name in ("rare", "common"))
        common_weight, rare_weight = facts["set"]["class_weights"]
        assert common_weight < 0.8 and rare_weight > 1.5 and rare < common


def test_settings_of_classes_are_refused_for_another_task(bases, tmp_path):
    for name, value in (("class_weights", "balanced"), ("label_smoothing", "0.1")):
        examples = write_rows(tmp_path, "tag")
        made = pipeline("tag", bases["encoder"], examples, tmp_path / name, f"finetuning.{name}={value}")
        with pytest.raises(ConfigError, match=f"finetuning.{name} is for the task 'classify'"):
            made.adapter()
    with pytest.raises(ConfigError, match="label_smoothing must be at least 0"):
        pipeline("tag", bases["encoder"], examples, tmp_path / "out", "finetuning.label_smoothing=1")


def test_a_decoder_that_has_learned_classes_does_not_chat_but_its_base_does(bases, tmp_path):
    made = pipeline("classify", bases["decoder"], write_rows(tmp_path, "classify"), tmp_path / "out")
    made.adapter()
    with pytest.raises(ArtifactError, match="classify"):
        load_responder(tmp_path / "out")
    assert load_responder(tmp_path / "out", with_adapter=False).model.config.family == "decoder"


def test_a_prefix_that_leaves_too_few_positions_is_told_before_the_first_step(bases, tmp_path):
    wide = ("finetuning.adapter.kind=prefix", "finetuning.adapter.num_virtual_tokens=60")
    made = pipeline("classify", bases["decoder"], write_rows(tmp_path, "classify"), tmp_path / "out", *wide)
    with pytest.raises(ConfigError, match="positions for 68 tokens"):
        made.adapter()
