"""What stands in the folder of a run, found without running anything."""

from pathlib import Path

from preceptor.core.artifact import Artifact, Store
from preceptor.core.errors import ArtifactError
from preceptor.recipes.taint import sound, usable

JSON_FILE, HTML_FILE = "report.json", "report.html"
TRAINING_STAGES = ("pretrain", "finetune")
MODEL_CONFIG_FILE = "config.json"
"""What tells a folder with a model from others."""


def newest(out: Path, kind: str) -> Artifact:
    """The newest artifact of a kind in the folder of a run.

    Raises:
        ArtifactError: there is none.
    """
    found = usable(out, Store(out / "artifacts").all(kind))
    if not found:
        raise ArtifactError(f"{out} holds no {kind}", remedy=f"make one first: `preceptor run --out {out}`")
    return found[0]


def newest_model(store: Store) -> tuple[Artifact, Artifact | None]:
    """The newest checkpoint of a folder, and its newest adapter if it has one.

    Raises:
        ArtifactError: there is none.
    """
    checkpoints = usable(store.root.parent, store.all("checkpoint"))
    if not checkpoints:
        raise ArtifactError(
            f"{store.root.parent} holds no trained model", remedy="train one first: `preceptor run --out DIR`"
        )
    checkpoint = max(checkpoints, key=lambda artifact: artifact.created)
    adapters = sound(store.root.parent, store.all("adapter"))
    own = [adapter for adapter in adapters if adapter.parents.get("checkpoint") == checkpoint.id]
    return checkpoint, max(own, key=lambda artifact: artifact.created, default=None)


def model_folder(folder: Path) -> Path:
    """The folder itself where it holds a model, or that of the newest model of a run.

    Raises:
        ArtifactError: it holds neither.
    """
    if (folder / MODEL_CONFIG_FILE).is_file():
        return folder
    return newest_model(Store(folder / "artifacts"))[0].path
