"""What makes a stage: once, remembered by its key, and made again only when what it depends on changes."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preceptor.core.artifact import Artifact, Draft, Store
from preceptor.core.config import digest, encode
from preceptor.core.drafts import remove_folder, sweep
from preceptor.core.errors import ArtifactError, ConfigError, MismatchError
from preceptor.core.interrupt import Stop
from preceptor.core.progress import say
from preceptor.footprint.meter import FootprintConfig, Meter, Reading, measure
from preceptor.parallel.team import SECONDS_TO_BE_SEEN, Team, until
from preceptor.recipes.folder import TRAINING_STAGES
from preceptor.recipes.run import Run
from preceptor.recipes.stage_notes import StageNote, read_notes, write_notes
from preceptor.recipes.taint import require_sound
from preceptor.recipes.unfinished import changeable, claim, forget

if TYPE_CHECKING:
    from preceptor.parallel.mesh import Mesh

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
    team: Team = field(default_factory=Team)
    """The processes that train together. The first of them makes all else, and the others wait until it stands."""
    rows: list[StageRow] = field(default_factory=list)
    _made: dict[str, Artifact] = field(default_factory=dict)
    _noted: dict[str, StageNote] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Open the store and clear away what killed runs have left."""
        self.store = Store(self.out / "artifacts")
        if not self.team.is_first:
            return
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
        if not self.team.is_first:
            self._made[stage] = self._followed(stage, kind, key, make)
            return self._made[stage]
        self.team.tell(f"{stage}/key", key)
        self._note(stage, key, "")
        artifact = self.store.find(kind, key)
        require_sound(self.out, [artifact])
        reused = artifact is not None
        if stage in TRAINING_STAGES:
            self._require_all_processes(stage, reused)
            self.team.tell(f"{stage}/all", "" if reused else "train")
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
        self.team.tell(stage, artifact.id)
        say(f"{stage}: {'exists' if reused else 'made'}, {kind} {artifact.path.name}")
        self._made[stage] = artifact
        self.rows.append(StageRow(stage, artifact, reused))
        return artifact

    def _require_all_processes(self, stage: str, reused: bool) -> None:
        """Refuse a training by one process that the recipe wants to be done by several."""
        if self.team.is_alone and self.run.mesh.processes > 1 and not reused:
            raise ConfigError(
                f"the recipe has {self.run.mesh.processes} processes {stage} together, and this is one alone",
                path="mesh.processes",
                remedy="start them: `preceptor run`, `pretrain` and `finetune` do; or set mesh.processes=1",
            )

    def _followed(self, stage: str, kind: str, key: str, make: Callable[[Draft, Meter], None]) -> Artifact:
        """The artifact of a stage as a process finds it that is not the first; it has taken part in a training.

        Raises:
            LostError: the first process has failed, or is gone.
        """
        if self.team.hear(f"{stage}/key", self.stop.check) != key:
            raise MismatchError(
                f"{stage}: process {self.team.rank} on {os.uname().nodename} would make it of other settings or files "
                "than the first process",
                remedy="start all processes with the same command and version, and give all hosts the same files",
            )
        if stage in TRAINING_STAGES and self.team.hear(f"{stage}/all", self.stop.check):
            # What is known of the training and its cost is written down by the first process.
            make(Draft(self.out), Meter(FootprintConfig(method="clock")))
        id = self.team.hear(stage, self.stop.check)
        found: list[Artifact] = []

        def is_there() -> bool:
            found.extend(each for each in self.store.all(kind) if each.id == id)
            return bool(found)

        if not until(is_there, SECONDS_TO_BE_SEEN, self.stop.check):
            raise ArtifactError(
                f"process {self.team.rank} does not see the {kind} that the first process has made in {self.out}",
                remedy="name a folder with --out that all hosts share",
            )
        say(f"{stage}: {kind} {found[0].path.name}")
        return found[0]

    def _mesh(self, device: str) -> "Mesh":
        """The mesh of all processes, on a device of that name; all join it at the same place."""
        from preceptor.parallel.engine import chosen_device
        from preceptor.parallel.mesh import Mesh

        return Mesh.join(self.run.mesh, chosen_device(device).type, self.team)

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
        if not self.team.is_first:
            return folder
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
