"""Rows 19, 20 and 21: settings, data or a tokenizer that changed while a training lay unfinished."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from preceptor.core.config import encode
from preceptor.core.errors import MismatchError
from preceptor.recipes.unfinished import changeable, claim, deciding
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.training import train
from preceptor.train.run import PretrainingConfig

TEXTS = [" ".join(f"word{number * place % 97} of page {number}" for place in range(60)) for number in range(12)]
SAVING = {
    "checkpoint_every_steps",
    "keep_checkpoints",
    "keep_checkpoint_every_steps",
    "checkpoints_in_background",
    "grace_seconds",
    "tracking",
}
"""Settings that may change, as they decide when something is saved or shown, and nothing of what."""


def may_change(names) -> bool:
    """Whether a setting changes no number of a training: when it is saved, who watches, and where its memory is."""
    return names[0] in SAVING or (names[0] == "memory" and names[-1] != "optimizer_bits")


def leaves(table, prefix=()):
    """Every value of nested tables with the names that lead to it."""
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*prefix, name))
        else:
            yield (*prefix, name), value


def changed(table, names):
    """The tables with another value at a place."""
    first, *rest = names
    return table | {first: changed(table[first], rest) if rest else ["another", table[first]]}


FIELDS = dict(leaves(encode(PretrainingConfig())))


@pytest.mark.parametrize("names", FIELDS, ids=".".join)
def test_row_19_every_setting_of_training_is_refused_or_is_known_to_change_no_number(tmp_path, names):
    before = encode(PretrainingConfig())

    def claimed(key, table):
        settings = {"pretraining": deciding(table)}
        folder = tmp_path / f"pretrain-{key}"
        claim(
            folder,
            key,
            settings=settings,
            parents={},
            free=changeable(table),
            is_finished=lambda key: False,
            restart=False,
        )
        return folder

    (claimed("one", before) / "step-0000004").mkdir()
    after = changed(before, names)
    if may_change(names):
        assert deciding(after) == deciding(before)
        claimed("one", after)
        return
    with pytest.raises(MismatchError) as caught:
        claimed("two", after)
    path = ".".join(["pretraining", *names])
    assert caught.value.difference == {path: (FIELDS[names], ["another", FIELDS[names]])}
    assert path in str(caught.value) and "--restart" in caught.value.remedy


@pytest.fixture(scope="module")
def killed(nursery, tmp_path_factory):
    """A folder with documents, a tokenizer, and a run that was killed in its training."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "docs").mkdir()
    for number, text in enumerate(TEXTS):
        (folder / "docs" / f"{number}.txt").write_text(text)
    (folder / "tokenizer").mkdir()
    train(TEXTS, TokenizerConfig(vocab_size=300), folder / "tokenizer")
    trainee = nursery.start(folder / "run", folder / "notes", **asked(folder))
    deadline = time.monotonic() + 200
    while len(saved(folder)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    trainee.send(signal.SIGKILL)
    assert trainee.wait() == -signal.SIGKILL and saved(folder), trainee.said()
    return folder


def saved(folder: Path) -> list[Path]:
    """The checkpoints of the unfinished training."""
    # Folders of a run that is at work come and go, so that only where checkpoints stand is looked at.
    return sorted((folder / "run" / "checkpoints").glob("*/step-*"))


def asked(folder: Path, *overrides: str) -> dict:
    """What a trainee is asked to make in a folder."""
    shape = [
        *("pretraining.context_length=32", "pretraining.batch_tokens=128", "pretraining.micro_batch_tokens=128"),
        *("pretraining.duration=2000 steps", "pretraining.checkpoint_every_steps=2", "finetuning.examples="),
        *("tokenizer.kind=import", f"tokenizer.path={folder}/tokenizer/tokenizer.json"),
        f'data.sources=[{{path="{folder}/docs", licence="MIT"}}]',
    ]
    return {"recipe": "tiny", "stage": "checkpoint", "overrides": [*shape, *overrides]}


def refused(nursery, folder: Path, *overrides: str) -> str:
    """What a run tells that is refused, after which the unfinished training is as it was."""
    before = saved(folder)
    code, said = nursery.run(folder / "run", folder / "notes", **asked(folder, *overrides))
    assert code == 1 and "Traceback" not in said, said
    assert "holds a training that was stopped at step" in said and "--restart" in said
    assert saved(folder) == before
    return said


@contextmanager
def edited(path: Path, change) -> Iterator[None]:
    """A block in which a file holds something else."""
    before = path.read_bytes()
    path.write_bytes(change(before))
    yield
    path.write_bytes(before)


def test_row_19_a_changed_setting_is_refused_with_what_differs(nursery, killed):
    said = refused(nursery, killed, "pretraining.optimizer.learning_rate=0.5", "seed=3")
    assert "pretraining.optimizer.learning_rate: made with" in said and "now 0.5" in said


def test_row_20_one_byte_more_in_the_data_is_refused(nursery, killed):
    with edited(killed / "docs" / "3.txt", lambda content: content + b"s"):
        said = refused(nursery, killed)
    assert "tokens (its content): made with" in said and "learning_rate" not in said


def test_row_21_a_tokenizer_with_two_merges_swapped_is_refused(nursery, killed):
    def swap(content):
        table = json.loads(content)
        merges = table["model"]["merges"]
        merges[10], merges[11] = merges[11], merges[10]
        return json.dumps(table).encode()

    with edited(killed / "tokenizer" / "tokenizer.json", swap):
        said = refused(nursery, killed)
    assert "tokenizer (its content): made with" in said


def test_row_19_what_has_not_changed_and_what_changes_no_number_goes_on(nursery, killed):
    trainee = nursery.start(
        killed / "run", killed / "notes", **asked(killed, "pretraining.checkpoint_every_steps=1000")
    )
    deadline = time.monotonic() + 200
    while "going on from step" not in trainee.said() and time.monotonic() < deadline:
        time.sleep(0.01)
    trainee.send(signal.SIGKILL)
    assert trainee.wait() == -signal.SIGKILL
    assert "going on with another checkpoint_every_steps: 2 before, 1000 now" in trainee.said()
