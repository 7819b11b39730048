import sys

import pytest

from preceptor import cli
from preceptor.core.artifact import Store
from preceptor.core.errors import ArtifactError
from preceptor.recipes.folder import newest_model
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.report import write_run_file
from preceptor.recipes.run import load_run, stored_run


def call(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["preceptor", *words])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    return leaving.value.code


def test_recipes_are_listed_with_a_line_each(monkeypatch, capsys):
    assert call(monkeypatch, "recipes") == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} >= {"default", "default-long", "gpt2", "tiny"}
    assert all(len(line.split()) > 3 for line in lines)


def test_an_unforeseen_error_is_short_and_its_traceback_is_kept_in_the_folder(monkeypatch, capsys, tmp_path):
    def broken(pipeline: Pipeline) -> None:
        raise RuntimeError("two wires touched")

    monkeypatch.setattr(Pipeline, "corpus", broken)
    assert call(monkeypatch, "data", "tiny", "--out", str(tmp_path)) == 1
    said = capsys.readouterr().err
    (log,) = (tmp_path / "logs").iterdir()
    assert "two wires touched" in said and str(log) in said and "Traceback" not in said
    assert "two wires touched" in log.read_text() and "Traceback" in log.read_text()


def test_an_unforeseen_error_is_told_in_full_where_no_log_can_be_written(monkeypatch, capsys, tmp_path):
    def broken(pipeline: Pipeline) -> None:
        raise RuntimeError("two wires touched")

    monkeypatch.setattr(Pipeline, "corpus", broken)
    (tmp_path / "logs").write_text("a file stands where the folder would be")
    assert call(monkeypatch, "data", "tiny", "--out", str(tmp_path)) == 1
    assert "Traceback" in capsys.readouterr().err


def make(store: Store, kind: str, key: str, parents: dict[str, str]) -> str:
    with store.draft(kind, key, parents) as draft:
        (draft.path / "made.txt").write_text(key)
    return draft.artifact.id


def test_the_newest_model_is_the_newest_checkpoint_with_its_own_adapter(tmp_path):
    store = Store(tmp_path / "artifacts")
    first = make(store, "checkpoint", "1" * 64, {})
    make(store, "adapter", "2" * 64, {"checkpoint": first})
    last = make(store, "adapter", "3" * 64, {"checkpoint": first})
    checkpoint, adapter = newest_model(store)
    assert checkpoint.id == first and adapter is not None and adapter.id == last
    second = make(store, "checkpoint", "4" * 64, {})
    checkpoint, adapter = newest_model(store)
    assert (checkpoint.id, adapter) == (second, None)


def test_a_report_without_a_recipe_is_of_the_run_that_the_folder_holds(tmp_path):
    run = load_run("tiny", ["seed=77"])
    write_run_file(run, tmp_path)
    assert stored_run(tmp_path) == run
    assert stored_run(tmp_path, ["seed=78"]).seed == 78
    with pytest.raises(ArtifactError, match="holds no run"):
        stored_run(tmp_path / "nowhere")
