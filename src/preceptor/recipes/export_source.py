"""What of a run's folder leaves it: the newest model, all that it was made from, and by what right."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preceptor.core.artifact import Artifact, Store
from preceptor.core.errors import ArtifactError
from preceptor.core.progress import say
from preceptor.data.document import Document, Drop
from preceptor.data.rights import Policy
from preceptor.models.base_config import HUB
from preceptor.recipes.folder import MODEL_CONFIG_FILE, newest_model
from preceptor.recipes.run import Run, stored_run
from preceptor.recipes.taint import all_artifacts, require_sound, tainted


@dataclass(frozen=True)
class ExportSource:
    """A trained model with its run and its lineage."""

    out: Path
    run: Run
    checkpoint: Artifact
    adapter: Artifact | None
    """What was trained on top of the checkpoint; None where nothing was, or where it is left out."""
    ancestors: tuple[Artifact, ...]
    """What both were made from that is still there, oldest first."""
    evaluation: Artifact | None
    """The newest scores of this very model."""

    @property
    def model_name(self) -> str:
        """What the model is called: the run's name, and which of its models it is."""
        return f"{self.run.name}-{(self.adapter or self.checkpoint).id[:8]}"

    @property
    def hub_base(self) -> str:
        """The Hub's name of the model that the run started from; empty where there is none."""
        return self.run.base.model.removeprefix(HUB) if self.run.base.model.startswith(HUB) else ""

    @property
    def adapter_base(self) -> str:
        """The name, never the place, of the model that the adapter belongs to."""
        # A base to which tokens were added is another model than that of the Hub.
        if self.hub_base and self.checkpoint.facts.get("new_tokens") == 0:
            return self.hub_base
        return f"{self.run.name}-{self.checkpoint.id[:8]}"

    @property
    def is_whole_model(self) -> bool:
        """Whether fine-tuning left a model of its own in place of an adapter."""
        return self.adapter is not None and (self.adapter.path / MODEL_CONFIG_FILE).is_file()

    def corpora(self) -> list[dict[str, Any]]:
        """The datasheets of the corpora among the ancestors."""
        found = [artifact for artifact in self.ancestors if artifact.kind == "corpus"]
        return [json.loads(each.file("datasheet.json").read_text(encoding="utf-8")) for each in found]

    def scores(self) -> dict[str, Any]:
        """The table of the evaluation, but for what is said of an adapter that is left out; empty if there is none."""
        if self.evaluation is None:
            return {}
        table: dict[str, Any] = json.loads(self.evaluation.file("evaluation.json").read_text(encoding="utf-8"))
        if self.adapter is None:
            table.pop("task", None)
            for name in ("after", "improvement"):
                table.get("question_answering", {}).pop(name, None)
        return table


def find_source(out: Path, *, with_adapter: bool = True) -> ExportSource:
    """The newest model of a run's folder, whose lineage is sound and whose documents the run's policy allows.

    Raises:
        ArtifactError: there is none, it descends from a withdrawn document, or from one that may not be used.
    """
    if not out.is_dir():
        raise ArtifactError(f"{out} does not exist", remedy=f"train a model first: `preceptor run --out {out}`")
    run, store = stored_run(out), Store(out / "artifacts")
    checkpoint, adapter = newest_model(store)
    if with_adapter and adapter is None:
        own = [each for each in store.all("adapter") if each.parents.get("checkpoint") == checkpoint.id]
        require_sound(out, own)
    if not with_adapter:
        adapter = None
    newer = [each for each in store.all(checkpoint.kind) if each.created > checkpoint.created]
    if newer:
        say(f"{newer[0].path} descends from a withdrawn document; the model before it is exported")
    known = {artifact.id: artifact for artifact in all_artifacts(store)}
    ancestors = _ancestors(out, known, [checkpoint, *([adapter] if adapter else [])])
    for artifact in (checkpoint, *([adapter] if adapter else [])):
        artifact.verify()
    source = ExportSource(out, run, checkpoint, adapter, ancestors, _evaluation(out, store, checkpoint, adapter))
    for artifact in ancestors:
        if artifact.kind == "corpus":
            _require_rights(artifact, source.run)
    return source


def _ancestors(out: Path, known: dict[str, Artifact], models: list[Artifact]) -> tuple[Artifact, ...]:
    """All that the models were made from, refused where any of it, still there or deleted, is tainted."""
    marked = tainted(out)
    reached: dict[str, Artifact] = {}
    waiting = [*models]
    while waiting:
        artifact = waiting.pop()
        require_sound(out, [artifact])
        for id in artifact.parents.values():
            if id in marked and id not in known:
                raise ArtifactError(
                    f"{artifact.path}: this {artifact.kind} descends from a {marked[id]['kind']} with withdrawn "
                    "documents, which is deleted",
                    remedy=f"make it anew without them: `preceptor run RECIPE --out {out}`",
                )
            if id in known and id not in reached:
                reached[id] = known[id]
                waiting.append(known[id])
    own = {model.id for model in models}
    found = [artifact for artifact in reached.values() if artifact.id not in own]
    return tuple(sorted(found, key=lambda artifact: artifact.created))


def _evaluation(out: Path, store: Store, checkpoint: Artifact, adapter: Artifact | None) -> Artifact | None:
    """The newest scores of a checkpoint, and of its adapter where there is one."""
    marked = tainted(out)
    for artifact in store.all("evaluation"):
        parents = artifact.parents
        is_of_model = adapter is None or parents.get("adapter") == adapter.id
        if is_of_model and checkpoint.id in parents.values() and artifact.id not in marked:
            return artifact
    return None


def _require_rights(corpus: Artifact, run: Run) -> None:
    """Refuse a corpus that holds what the policy of the run, as it is described now, does not let train.

    Raises:
        ArtifactError: names the licence or the consent, and how many documents have it.
    """
    sheet = json.loads(corpus.file("datasheet.json").read_text(encoding="utf-8"))
    rights = run.data.rights
    policy = Policy(rights)
    refused: list[tuple[str, int]] = []
    for licence, count in sheet["licences"].items():
        verdict = policy.judge(Document("", "", "", licence, rights.consent[0]))
        if isinstance(verdict, Drop):
            refused.append((f"the licence {licence} ({verdict.rule})", count))
    for consent, count in sheet["consents"].items():
        if consent not in rights.consent:
            refused.append((f"consent {consent!r}", count))
    if refused:
        what, count = refused[0]
        raise ArtifactError(
            f"{corpus.path}: {count} of its documents have {what}, which the rights policy of this run refuses",
            remedy="train again under this policy, which leaves them out, or change data.rights where that is right",
        )
