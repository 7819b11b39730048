"""Trainings that were stopped or killed: who goes on with them, and who may not."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from preceptor.core.artifact import load, write_folder
from preceptor.core.drafts import remove_folder
from preceptor.core.errors import ArtifactError, MismatchError, OutputError
from preceptor.core.progress import say

_FOLDER, _KIND = "run", "unfinished-run"
_SAFE = {
    "checkpoint_every_steps",
    "keep_checkpoints",
    "keep_checkpoint_every_steps",
    "checkpoints_in_background",
    "grace_seconds",
    "tracking",
    "licence",
    "consent",
}
"""Settings of a training that change none of its numbers. Of ``memory`` only the precision of states does."""
_BITS = "optimizer_bits"


def deciding(training: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training stage that decide its numbers, which are those that it is known by."""
    found = {name: value for name, value in training.items() if name not in _SAFE}
    if "memory" in found:
        found["memory"] = {_BITS: found["memory"][_BITS]}
    return found


def changeable(training: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training stage that may change while it goes on."""
    found = {name: value for name, value in training.items() if name in _SAFE}
    if "memory" in training:
        found["memory"] = {name: value for name, value in training["memory"].items() if name != _BITS}
    return found


def claim(
    folder: Path,
    key: str,
    *,
    settings: Mapping[str, Any],
    parents: Mapping[str, str],
    free: Mapping[str, Any],
    is_finished: Callable[[str], bool],
    restart: bool,
) -> None:
    """Note what a training in a folder of checkpoints is, before it begins or goes on.

    ``free`` are settings that may change while it goes on; what has changed among them is told. With ``restart``
    another training that is unfinished is thrown away.

    Raises:
        MismatchError: another training of the same stage is unfinished: names every difference.
    """
    said = {"settings": dict(settings), "parents": dict(parents), "free": dict(free)}
    for other in sorted(folder.parent.glob(f"{folder.name.rsplit('-', 1)[0]}-*")):
        if other != folder:
            _require_finished(other, said, is_finished, restart)
    try:
        before: dict[str, Any] = _read(folder)
    except ArtifactError:
        before = said
    changes = _differences(before["free"], said["free"])
    for name, (was, now) in changes.items():
        say(f"going on with another {name}: {was!r} before, {now!r} now")
    with write_folder(folder / _FOLDER, _KIND, key, {}) as draft:
        (draft.path / "run.json").write_text(json.dumps(said, indent=1), encoding="utf-8")


def forget(folder: Path, keep_every_steps: int) -> None:
    """Remove the checkpoints of a training that is finished, but those of steps that a number other than 0 divides."""
    if not keep_every_steps:
        remove_folder(folder)
        return
    for each in (*folder.glob("step-[0-9]*"), *folder.glob("best-[0-9]*")):
        kind, step = each.name.split("-")
        if kind == "best" or int(step) % keep_every_steps:
            remove_folder(each)


def _require_finished(other: Path, said: Mapping[str, Any], is_finished: Callable[[str], bool], restart: bool) -> None:
    steps = sorted(other.glob("step-[0-9]*"))
    if not steps:
        return
    try:
        artifact = load(other / _FOLDER, _KIND)
        before: dict[str, Any] = _read(other)
    except ArtifactError:
        # Nobody can tell what it was, so nobody can go on with it.
        return
    if is_finished(artifact.key):
        return
    stage, step = other.name.rsplit("-", 1)[0], int(steps[-1].name.removeprefix("step-"))
    if restart:
        if not remove_folder(other):
            raise OutputError(f"{other} cannot be removed", remedy="make its folder writable, or choose another --out")
        say(f"{stage}: the unfinished training in {other}, at step {step}, is thrown away")
        return
    difference = _differences(before["settings"], said["settings"])
    for role, (was, now) in _differences(before["parents"], said["parents"]).items():
        difference[f"{role} (its content)"] = (_short(was), _short(now))
    raise MismatchError(
        f"{stage}: {other} holds a training that was stopped at step {step}, and is not the one that is asked for",
        difference=difference,
        remedy="go on with what it was made with; or throw it away with --restart; or choose another --out folder",
    )


def _read(folder: Path) -> dict[str, Any]:
    artifact = load(folder / _FOLDER, _KIND)
    found: dict[str, Any] = json.loads(artifact.file("run.json").read_text(encoding="utf-8"))
    return found


def _short(id: object) -> object:
    return id[:12] if isinstance(id, str) else id


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    """What differs between two tables, by the dotted path of each value, in the order of the second."""
    ours, theirs = _flat(before), _flat(now)
    names = dict.fromkeys([*theirs, *ours])
    return {
        name: (ours.get(name, "nothing"), theirs.get(name, "nothing"))
        for name in names
        if ours.get(name, "nothing") != theirs.get(name, "nothing")
    }


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
