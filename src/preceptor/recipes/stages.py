"""What makes a stage: once, remembered by its key, and made again only when what it depends on changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preceptor.core.artifact import Artifact, Draft, Store
from preceptor.core.config import digest, encode
from preceptor.core.drafts import remove_folder, sweep
from preceptor.core.interrupt import Stop
from preceptor.core.progress import say
from preceptor.footprint.meter import Meter, Reading, measure
from preceptor.recipes.folder import TRAINING_STAGES
from preceptor.recipes.run import Run
from preceptor.recipes.stage_notes import StageNote, read_notes, write_notes
from preceptor.recipes.taint import require_sound
from preceptor.recipes.unfinished import changeable, claim, forget

FORMAT = 3
"""Counted up when a stage changes what it makes from the same settings, so that older artifacts are not reused."""


@dataclass(frozen=True, slots=True)
class StageRow:
    """What a stage came to, for the table at the end."""

    stage: str
    artifact: Artifact
    reused: bool

    @property
    def cost(self) -> Reading:
        """What making it has cost, whenever that was."""
        return Reading.from_facts(self.artifact.notes.get("cost", {}))


@dataclass
class Stages:
    """The stages that were made in one output folder, and how another is made."""

    run: Run
    out: Path
    stop: Stop
    restart: bool = False
    """Whether an unfinished training with other settings or data may be thrown away."""
    rows: list[StageRow] = field(default_factory=list)
    _made: dict[str, Artifact] = field(default_factory=dict)
    _noted: dict[str, StageNote] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Open the store and clear away what killed runs have left."""
        self.store = Store(self.out / "artifacts")
        self.store.sweep()
        for folder in (self.out / "checkpoints", *(self.out / "checkpoints").glob("*-*"), self.out / "work"):
            sweep(folder)
        self._noted = read_notes(self.out, encode(self.run))

    def _stage(
        self,
        stage: str,
        kind: str,
        settings: Mapping[str, Any],
        parents: Mapping[str, Artifact],
        make: Callable[[Draft, Meter], None],
    ) -> Artifact:
        """The artifact of a stage: the one that exists, or a new one."""
        if stage in self._made:
            return self._made[stage]
        self.stop.check()
        key = self._key(stage, settings, parents)
        self._note(stage, key, "")
        artifact = self.store.find(kind, key)
        require_sound(self.out, [artifact])
        reused = artifact is not None
        if artifact is None:
            with self.store.draft(kind, key, {role: parent.id for role, parent in parents.items()}) as draft:
                with measure(self.run.footprint) as meter:
                    make(draft, meter)
                    reading = meter.read()
                earlier = Reading.from_facts(draft.notes.pop("resumed_cost", {}))
                draft.notes["cost"] = reading.add(earlier).facts()
            artifact = draft.artifact
            self._forget_checkpoints(stage, key)
        self._note(stage, key, artifact.id)
        if stage in TRAINING_STAGES:
            from preceptor.recipes.curves import keep_curves

            keep_curves(self.out, stage, artifact)
        say(f"{stage}: {'exists' if reused else 'made'}, {kind} {artifact.path.name}")
        self._made[stage] = artifact
        self.rows.append(StageRow(stage, artifact, reused))
        return artifact

    def _note(self, stage: str, key: str, artifact_id: str) -> None:
        """Write down what the run of this folder is made of, for those who look at it while it goes on or later."""
        self._noted[stage] = StageNote(key, artifact_id)
        write_notes(self.out, encode(self.run), self._noted)

    def _key(self, stage: str, settings: Mapping[str, Any], parents: Mapping[str, Artifact]) -> str:
        ids = {role: parent.id for role, parent in parents.items()}
        return digest({"stage": stage, "format": FORMAT, "settings": dict(settings), "parents": ids})

    def _claimed(
        self,
        stage: str,
        key: str,
        settings: Mapping[str, Any],
        parents: Mapping[str, Artifact],
        training: Mapping[str, Any],
    ) -> Path:
        """The folder of the checkpoints of a stage, which is now known to be this training's."""
        kinds = {"pretrain": "checkpoint", "finetune": "adapter"}
        folder = self._checkpoints(stage, key)
        claim(
            folder,
            key,
            settings=settings,
            parents={role: parent.id for role, parent in parents.items()},
            free=changeable(training),
            is_finished=lambda other: self.store.find(kinds[stage], other, verify=False) is not None,
            restart=self.restart,
        )
        return folder

    def _checkpoints(self, stage: str, key: str) -> Path:
        return self.out / "checkpoints" / f"{stage}-{key[:12]}"

    def _work(self, stage: str, key: str) -> Path:
        return self.out / "work" / f"{stage}-{key[:12]}"

    def _forget_checkpoints(self, stage: str, key: str) -> None:
        """The states on the way to an artifact that now stands are of no further use, but for those kept for good."""
        training = {"pretrain": self.run.pretraining, "finetune": self.run.finetuning}.get(stage)
        forget(self._checkpoints(stage, key), 0 if training is None else training.keep_checkpoint_every_steps)
        remove_folder(self._work(stage, key))
