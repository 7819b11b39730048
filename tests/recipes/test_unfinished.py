"""A training that was stopped: only its own settings, data and tokenizer may go on with it."""

import pytest

from preceptor.core.errors import MismatchError
from preceptor.recipes.unfinished import changeable, claim, deciding, forget


def claimed(root, key, settings, parents=None, free=None, finished=(), restart=False):
    folder = root / f"pretrain-{key}"
    claim(
        folder,
        key,
        settings=settings,
        parents=parents or {"tokens": "a" * 64, "tokenizer": "b" * 64},
        free=free or {},
        is_finished=lambda other: other in finished,
        restart=restart,
    )
    return folder


@pytest.fixture
def stopped(tmp_path):
    """A folder with a training that was stopped at step 40."""
    settings = {"pretraining": {"optimizer": {"learning_rate": 0.02}, "duration": "80 steps"}, "seed": 0}
    folder = claimed(tmp_path, "one", settings, free={"checkpoint_every_steps": 20})
    (folder / "step-0000020").mkdir()
    (folder / "step-0000040").mkdir()
    return tmp_path, settings


def test_another_setting_is_refused_and_shown(stopped):
    root, _ = stopped
    other = {"pretraining": {"optimizer": {"learning_rate": 0.01}, "duration": "80 steps", "noise": 1}, "seed": 0}
    with pytest.raises(MismatchError, match="stopped at step 40") as caught:
        claimed(root, "two", other)
    assert caught.value.difference == {
        "pretraining.optimizer.learning_rate": (0.02, 0.01),
        "pretraining.noise": ("nothing", 1),
    }
    assert "--restart" in caught.value.remedy
    assert "pretraining.optimizer.learning_rate: made with 0.02, now 0.01" in str(caught.value)
    assert (root / "pretrain-one" / "step-0000040").is_dir()


@pytest.mark.parametrize("role", ["tokens", "tokenizer"])
def test_other_data_and_another_tokenizer_are_refused(stopped, role):
    root, settings = stopped
    parents = {"tokens": "a" * 64, "tokenizer": "b" * 64} | {role: "c" * 64}
    with pytest.raises(MismatchError) as caught:
        claimed(root, "two", settings, parents)
    [(name, (before, now))] = caught.value.difference.items()
    assert role in name and len(before) == len(now) == 12 and now == "c" * 12


def test_it_is_thrown_away_where_that_is_asked_for(stopped, capsys):
    root, settings = stopped
    folder = claimed(root, "two", {**settings, "seed": 1}, restart=True)
    assert folder.is_dir() and not (root / "pretrain-one").exists()
    assert "at step 40, is thrown away" in capsys.readouterr().err


def test_what_is_finished_or_has_saved_nothing_is_in_nobodys_way(stopped, tmp_path):
    root, settings = stopped
    claimed(root, "two", {**settings, "seed": 1}, finished=("one",))
    other = tmp_path / "other"
    claimed(other, "one", settings)
    claimed(other, "two", {**settings, "seed": 1})


def test_a_setting_that_changes_no_number_is_told_and_goes_on(stopped, capsys):
    root, settings = stopped
    claimed(root, "one", settings, free={"checkpoint_every_steps": 5})
    assert "another checkpoint_every_steps: 20 before, 5 now" in capsys.readouterr().err
    claimed(root, "one", settings, free={"checkpoint_every_steps": 5})
    assert capsys.readouterr().err == ""


def test_settings_of_saving_decide_no_number():
    memory = {"optimizer_bits": 8, "keep_activations_in": "disk"}
    training = {"keep_checkpoints": 2, "duration": "1 epoch", "memory": memory, "tracking": {"loggers": []}}
    assert deciding(training) == {"duration": "1 epoch", "memory": {"optimizer_bits": 8}}
    assert changeable(training) == {
        "keep_checkpoints": 2,
        "tracking": {"loggers": []},
        "memory": {"keep_activations_in": "disk"},
    }


def test_of_a_finished_training_every_nth_checkpoint_stays_and_nothing_else(tmp_path):
    folder = tmp_path / "pretrain-one"
    for name in ("step-0000020", "step-0000030", "step-0000040", "best-0000040"):
        (folder / name).mkdir(parents=True)
    forget(folder, 20)
    assert sorted(path.name for path in folder.iterdir()) == ["step-0000020", "step-0000040"]
    forget(folder, 0)
    assert not folder.exists()
