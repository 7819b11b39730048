"""Runs side by side, through the command line."""

import json
import math
import sys

import numpy as np
import pytest

from preceptor import cli
from preceptor.core.artifact import Store
from preceptor.core.config import encode
from preceptor.recipes.compare import compare, flat
from preceptor.recipes.compare_view import places_of, stage_of
from preceptor.recipes.report import write_run_file
from preceptor.recipes.run import load_run
from preceptor.recipes.stage_notes import StageNote, write_notes

COST = {"seconds": 20.0, "joules": 500.0, "grams_co2e": 0.25, "how": {"seconds": "monotonic clock"}}
NUM_STEPS = 8


def line(step, rate):
    told = {"step": step, "tokens": 100 * step, "loss": 7 - rate * step, "learning_rate": rate, "grad_norm": 1.0}
    if step % 4 == 0:
        told |= {"validation_loss": 7.5 - rate * step, "validation_accuracy": 0.125}
    return told | {"tokens_per_second": 200.0, "joules": 50.0 * (step // 2), "seconds": 0.5}


def run_folder(folder, rate, stages=("pretrain", "evaluate"), torn=False, base="a"):
    """A folder as a run leaves it, with as many stages as it has come through; pre-training is always begun."""
    run = load_run("tiny", [f"pretraining.optimizer.learning_rate={rate}"])
    folder.mkdir()
    write_run_file(run, folder)
    store = Store(folder / "artifacts")
    keys = {"pretrain": base * 64, "finetune": str(folder.name)[0] * 64, "evaluate": "e" * 64}
    notes = {"pretrain": StageNote(keys["pretrain"], "")}
    steps = [line(step, rate) for step in range(1, NUM_STEPS + 1)]
    for stage, kind in (("pretrain", "checkpoint"), ("finetune", "adapter"), ("evaluate", "evaluation")):
        if stage not in stages:
            continue
        with store.draft(kind, keys[stage], {}) as draft:
            if stage == "evaluate":
                scores = {"language_model": {"bits_per_byte": {"value": 2.5, "unit": "bits per byte"}, "documents": 7}}
                (draft.path / "evaluation.json").write_text(json.dumps(scores))
            else:
                (draft.path / "curve.json").write_text(json.dumps(steps))
                draft.facts |= {"num_steps": 8, "num_tokens": 800, "num_parameters": 158_000}
                draft.facts |= {"final_loss": steps[-1]["loss"], "validation_loss": steps[-1]["validation_loss"]}
            draft.notes["cost"] = COST
        notes[stage] = StageNote(keys[stage], draft.artifact.id)
    write_notes(folder, encode(run), notes)
    metrics = folder / "metrics" / f"pretrain-{keys['pretrain'][:12]}.jsonl"
    metrics.parent.mkdir()
    metrics.write_text("".join(json.dumps(step) + "\n" for step in steps) + ('{"step": 9, "tok' if torn else ""))
    return folder


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["preceptor", "compare", *map(str, words)])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    return leaving.value.code


def test_what_differs_and_what_came_out_stand_side_by_side(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    run_folder(tmp_path / "cold", 0.25)
    run_folder(tmp_path / "warm", 0.5, base="b")
    assert call(monkeypatch, "cold", "warm") == 0
    rows = [text.split() for text in capsys.readouterr().out.splitlines()]
    assert rows[:3] == [
        ["settings", "that", "differ", "cold", "warm"],
        ["pretraining.optimizer.learning_rate", "0.25", "0.5"],
        [],
    ]
    assert ["validation_loss", "5.5000", "3.5000"] in rows
    assert ["parameters", "158", "k", "158", "k"] in rows
    assert ["bits_per_byte", "2.5000", "2.5000"] in rows
    assert ["joules", "1", "kJ", "1", "kJ"] in rows
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cold", "compare.png", "warm"]


def test_as_json_for_programs(monkeypatch, capsys, tmp_path):
    folders = [run_folder(tmp_path / name, rate) for name, rate in (("a", 0.25), ("b", 0.25), ("c", 0.5))]
    picture = tmp_path / "abc.svg"
    assert call(monkeypatch, *folders, "--json", "--plot", picture) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] == ["a", "b", "c"]
    assert told["settings_that_differ"] == {"pretraining.optimizer.learning_rate": [0.25, 0.25, 0.5]}
    assert told["results"]["pretraining.joules"] == [500.0] * 3
    assert told["results"]["total.grams_co2e"] == [0.5] * 3
    assert told["results"]["pretraining.state"] == ["finished"] * 3
    assert told["plot"] == str(picture)
    drawn = picture.read_text()
    assert all(
        f">{text}<" in drawn for text in ("steps", "joules, loading included", "seconds of training", "a", "b", "c")
    )


def test_a_run_that_was_stopped_is_compared_as_far_as_it_has_come(monkeypatch, capsys, tmp_path):
    stopped = run_folder(tmp_path / "stopped", 0.25, stages=(), torn=True)
    finished = run_folder(tmp_path / "finished", 0.25, base="b")
    results = compare([stopped, finished]).results
    assert results["pretraining.state"] == ["unfinished", "finished"]
    assert results["pretraining.steps"] == [8, 8]
    assert results["pretraining.final_loss"] == [5.0, 5.0]
    assert results["pretraining.seconds"] == [4.0, 20.0]
    assert results["pretraining.joules"] == [200.0, 500.0]
    assert results["pretraining.validation_accuracy"] == [0.125, 0.125]
    assert results["evaluation.bits_per_byte"] == [None, 2.5]
    assert call(monkeypatch, stopped, finished, "--plot", tmp_path / "x.png") == 0
    assert "–" in capsys.readouterr().out


def test_runs_of_other_settings_in_the_same_folder_are_not_taken_for_this_one(tmp_path):
    one, other = run_folder(tmp_path / "one", 0.25), run_folder(tmp_path / "other", 0.5)
    write_run_file(load_run("tiny", ["seed=3"]), one)
    comparison = compare([one, other])
    assert comparison.results["pretraining.steps"] == [None, 8]
    assert comparison.differing["seed"] == [3, 0]


def test_settings_that_a_run_is_too_old_or_too_new_to_know_are_compared_too(tmp_path):
    folders = [run_folder(tmp_path / name, 0.25) for name in ("a", "b")]
    table = json.loads((folders[0] / "run.json").read_text())
    del table["run"]["pretraining"]["batch_tokens"], table["run"]["seed"]
    (folders[0] / "run.json").write_text(json.dumps(table))
    # What is left out has its default, which the other has said in so many words or not.
    assert list(compare(folders).differing) == ["pretraining.batch_tokens"]
    table["run"]["gravity"] = 9.81
    (folders[0] / "run.json").write_text(json.dumps(table))
    assert compare(folders).differing["gravity"] == [9.81, None]


def test_where_all_share_their_base_the_losses_are_those_of_fine_tuning(tmp_path):
    stages = ("pretrain", "finetune")
    same = [run_folder(tmp_path / name, 0.25, stages) for name in ("a", "b")]
    assert stage_of(compare(same)) == "finetune"
    assert stage_of(compare([same[0], run_folder(tmp_path / "c", 0.25, stages, base="b")])) == "pretrain"


def test_nothing_is_drawn_where_nothing_has_trained(monkeypatch, capsys, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_run_file(load_run("tiny", [f"name={name}"]), tmp_path / name)
    assert call(monkeypatch, tmp_path / "a", tmp_path / "b", "--plot", tmp_path / "x.png") == 0
    said = capsys.readouterr().out
    assert "no results yet" in said and "nothing is drawn" in said
    assert not (tmp_path / "x.png").exists()


def test_what_is_no_run_is_told_with_what_to_do(monkeypatch, capsys, tmp_path):
    run = run_folder(tmp_path / "run", 0.25)
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text('{"run": ')
    for words, said in (
        ([run, tmp_path / "nowhere"], "nowhere is no folder"),
        ([run, tmp_path / "empty"], "empty holds no run: it has no run.json"),
        ([run, tmp_path / "torn"], "run.json cannot be read"),
        ([run], "one run is nothing to compare"),
        ([run, run], "a folder is named twice"),
        ([run, tmp_path / "empty", "--plot", "x.pdf"], "plots are written as PNG or SVG"),
    ):
        assert call(monkeypatch, *words) in (1, 2)
        error = capsys.readouterr().err
        assert said in error and "To fix it:" in error
    assert not list(tmp_path.glob("*.png"))


def test_folders_of_one_name_are_told_apart_by_what_lies_above(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    folders = [run_folder(tmp_path / name / "run", 0.25) for name in ("x", "y")]
    assert [run.name for run in compare(folders).runs] == ["x/run", "y/run"]


def test_every_value_of_a_table_has_a_path():
    table = {"a": {"b": 1}, "c": [1, 2], "d": [{"e": None}, {"e": True}]}
    assert dict(flat(table)) == {"a.b": 1, "c": "[1, 2]", "d[0].e": None, "d[1].e": True}


def test_joules_between_readings_follow_the_mean_power():
    steps = [{"step": n, "tokens": n, "loss": 1.0, "seconds": 1.0} for n in range(1, 8)]
    for step, joules in zip(steps[1:], (100.0, 100.0, 140.0, 140.0, 140.0, 140.0), strict=True):
        step["joules"] = joules
    places = places_of(steps)
    joules = places["joules"]
    assert math.isnan(joules[0])
    np.testing.assert_allclose(joules[1:], [100, 120, 140, 160, 180, 200])
    np.testing.assert_array_equal(places["seconds"], np.arange(1, 8))
    assert places_of([{"step": 1, "tokens": 1, "loss": 1.0}])["seconds"] is None
