"""Runs side by side: which settings differ, what came out, and their losses over steps, tokens, seconds and joules."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preceptor.core.artifact import Artifact, Store
from preceptor.core.config import decode, encode
from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.footprint.meter import Reading
from preceptor.recipes.run import RUN_FILE, Run
from preceptor.recipes.stage_notes import StageNote, read_notes

Scalar = str | int | float | bool | None
_KINDS = {
    "data": "corpus",
    "tokenizer": "tokenizer",
    "tokens": "tokens",
    "pretrain": "checkpoint",
    "finetune": "adapter",
    "evaluate": "evaluation",
}
_TITLES = {"pretrain": "pretraining", "finetune": "finetuning"}
_COUNTED = {
    "steps": "num_steps",
    "tokens": "num_tokens",
    "parameters": "num_parameters",
    "final_loss": "final_loss",
    "validation_loss": "validation_loss",
    "skipped_steps": "skipped_steps",
}


@dataclass(frozen=True, slots=True)
class RunFolder:
    """What the folder of a run tells of it."""

    name: str
    settings: Mapping[str, Scalar]
    """By their dotted paths."""
    results: Mapping[str, Scalar]
    """By their dotted paths; what is not known is left out."""
    steps: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """For each training stage what is known of every step."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """For each stage its key: stages of one key are the same work."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side."""

    runs: Sequence[RunFolder]

    @property
    def differing(self) -> dict[str, list[Scalar]]:
        """The settings that are not the same in all runs, with the value of each; None where a run has no such one."""
        return {
            path: values
            for path, values in _side_by_side([run.settings for run in self.runs]).items()
            if any(value != values[0] or type(value) is not type(values[0]) for value in values)
        }

    @property
    def results(self) -> dict[str, list[Scalar]]:
        """What came out, with the value of each run; None where it is not known."""
        return _side_by_side([run.results for run in self.runs])

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "runs": [run.name for run in self.runs],
            "settings_that_differ": self.differing,
            "results": self.results,
        }


def compare(folders: Sequence[Path]) -> Comparison:
    """The comparison of the runs in two folders or more.

    Raises:
        ArtifactError: a folder holds no run.
        ConfigError: there is nothing to compare.
    """
    if len(folders) < 2:
        raise ConfigError("one run is nothing to compare", remedy="name the folders of two runs or more")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("a folder is named twice", remedy="name each run once")
    return Comparison([_read(folder, name) for folder, name in zip(folders, _names(folders), strict=True)])


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    length = 1
    while len({each[-length:] for each in parts}) < len(parts):
        length += 1
    return ["/".join(each[-length:]) for each in parts]


def _side_by_side(tables: Sequence[Mapping[str, Scalar]]) -> dict[str, list[Scalar]]:
    # In the order of the first table; what only others have comes behind.
    paths = dict.fromkeys(path for table in tables for path in table)
    return {path: [table.get(path) for table in tables] for path in paths}


def flat(value: Any, where: str = "") -> Iterator[tuple[str, Scalar]]:
    """Every single value of a table with its dotted path; a list of plain values counts as one."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from flat(item, f"{where}.{name}" if where else name)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from flat(item, f"{where}[{index}]")
    else:
        yield where, json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _read(folder: Path, name: str) -> RunFolder:
    try:
        run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["run"]
        settings = dict(flat(_complete(run)))
    except FileNotFoundError as error:
        what = "is no folder" if not folder.is_dir() else f"holds no run: it has no {RUN_FILE}"
        raise ArtifactError(
            f"{folder} {what}", remedy="name the folder that was given to --out, such as runs/default"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{folder / RUN_FILE} cannot be read: {error}", remedy=f"run again: `preceptor run --out {folder}`"
        ) from error
    notes = read_notes(folder, run)
    store = Store(folder / "artifacts")
    made = {stage: found for stage, note in notes.items() if (found := _artifact(store, stage, note)) is not None}
    results: dict[str, Scalar] = {}
    steps = {}
    for stage, title in _TITLES.items():
        if stage in notes:
            steps[stage] = _steps(folder, stage, notes[stage], made.get(stage))
            trained = _training(steps[stage], made.get(stage))
            results |= {f"{title}.{key}": value for key, value in trained.items()}
    if "evaluate" in made:
        results |= _scores(made["evaluate"])
    results |= {f"total.{key}": value for key, value in _cost(made).items()}
    return RunFolder(name, settings, results, steps, {stage: note.key for stage, note in notes.items()})


def _complete(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """The description of a run with the defaults of settings that it is too old to know.

    One that this version cannot read is left as it is: its settings can be compared all the same.
    """
    try:
        return encode(decode(Run, run))
    except ConfigError:
        return run


def _artifact(store: Store, stage: str, note: StageNote) -> Artifact | None:
    # A base that only an adapter is trained on is the checkpoint of its run.
    kinds = ("base", "checkpoint") if stage == "base" else (_KINDS.get(stage, ""),)
    found = (each for kind in kinds for each in store.all(kind))
    return next((each for each in found if note.artifact and each.id == note.artifact), None)


def _steps(folder: Path, stage: str, note: StageNote, artifact: Artifact | None) -> list[dict[str, Any]]:
    """What is known of every step: the metrics, which an unfinished run has too; or the curve of what was made."""
    try:
        lines = (folder / "metrics" / f"{stage}-{note.key[:12]}.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = [step for line in lines if (step := _parsed(line)) is not None]
    if not found and artifact is not None:
        curve: list[dict[str, Any]] = json.loads(artifact.file("curve.json").read_text(encoding="utf-8"))
        return curve
    return found


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of a metrics file; None where a kill has torn it."""
    try:
        step = json.loads(line)
    except ValueError:
        return None
    return step if isinstance(step, dict) and {"step", "tokens", "loss"} <= step.keys() else None


def _training(steps: Sequence[Mapping[str, Any]], artifact: Artifact | None) -> dict[str, Scalar]:
    """What came out of a training stage, finished or not."""
    checks = [step for step in steps if "validation_loss" in step]
    speeds = sorted(step["tokens_per_second"] for step in steps if "tokens_per_second" in step)
    found: dict[str, Scalar] = {"state": "finished" if artifact is not None else "unfinished"}
    cost: dict[str, Scalar] = {}
    if artifact is not None:
        found |= {name: artifact.facts[fact] for name, fact in _COUNTED.items() if fact in artifact.facts}
        cost = _known(Reading.from_facts(artifact.notes.get("cost", {})))
    elif steps:
        last = steps[-1]
        found |= {"steps": last["step"], "tokens": last["tokens"], "final_loss": last["loss"]}
        cost = {"seconds": sum(step.get("seconds", 0.0) for step in steps)}
        cost |= {"joules": last["joules"]} if "joules" in last else {}
        found |= {"validation_loss": checks[-1]["validation_loss"]} if checks else {}
    if checks and "validation_accuracy" in checks[-1]:
        found["validation_accuracy"] = checks[-1]["validation_accuracy"]
    if speeds:
        found["tokens_per_second"] = speeds[len(speeds) // 2]
    return found | cost


def _scores(artifact: Artifact) -> dict[str, Scalar]:
    """The scores of an evaluation, by the names it gives them."""
    scores = json.loads(artifact.file("evaluation.json").read_text(encoding="utf-8"))
    answers = (scores.get("question_answering") or {}).get("after", {})
    task = {score["name"]: score for score in (scores.get("task") or {}).get("scores", ())}
    tables = {**scores.get("language_model", {}), **scores.get("objective", {}), **answers, **task}
    return {
        f"evaluation.{name}": score["value"]
        for name, score in tables.items()
        if isinstance(score, Mapping) and isinstance(score.get("value"), int | float)
    }


def _cost(made: Mapping[str, Artifact]) -> dict[str, Scalar]:
    """What all that is finished has cost."""
    total = Reading()
    for artifact in made.values():
        total = total.add(Reading.from_facts(artifact.notes.get("cost", {})))
    return _known(total) if made else {}


def _known(cost: Reading) -> dict[str, Scalar]:
    """The figures of a cost that were measured."""
    figures = {"seconds": cost.seconds, "joules": cost.joules, "grams_co2e": cost.grams_co2e}
    return {name: value for name, value in figures.items() if value and math.isfinite(value)}
