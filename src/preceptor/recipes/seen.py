"""Which steps of a pre-training run saw a document: its order of rows, kept so that it is found without a model."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preceptor.core.artifact import Artifact, Store, load, write_folder
from preceptor.core.config import decode
from preceptor.core.errors import ArtifactError
from preceptor.core.seeds import KeyedPermutation, derive
from preceptor.data.mixture import Blending, Mixture, MixtureConfig
from preceptor.objectives.warmup import StepSizes

FOLDER, KIND = "orders", "order"
SETTINGS_NOTE = "settings"
"""The note of a checkpoint that holds the settings it was trained with."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What of a run decides at which steps a row is seen."""

    num_rows: int
    seed: int
    rows_per_step: int
    num_steps: int
    shares: tuple[int, ...] = ()
    """Where sources are blended: the share of each, of 2**40."""
    mixture_seed: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    """Where sources are blended: for each its first row and how many it has."""
    growth: StepSizes | None = None
    """How many rows each step has, where they are not all alike."""
    untrained: tuple[tuple[int, int], ...] = ()
    """Ranges of steps, counted from 0, that left nothing in the weights: skipped, or passed over after going back."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a run: where each piece of the stream stands, and when."""

    starts: NDArray[np.int64]
    """The first token of each piece of a document, in the order of the stream."""
    rows_of_pieces: NDArray[np.uint32]
    rows: Rows

    @classmethod
    def of(cls, out: Path, checkpoint: Artifact) -> "Order | None":
        """The order in which a checkpoint was trained, made when first asked for; None without settings."""
        folder = out / FOLDER / checkpoint.id[:16]
        try:
            return cls._read(load(folder, KIND, verify=False))
        except ArtifactError:
            settings = checkpoint.notes.get(SETTINGS_NOTE)
            return None if settings is None else cls._make(folder, out, checkpoint, settings)

    @classmethod
    def _read(cls, artifact: Artifact) -> "Order":
        said = artifact.facts
        ranges = tuple((first, number) for first, number in said.get("ranges", ()))
        growth = StepSizes(**said["growth"]) if "growth" in said else None
        untrained = tuple((first, last) for first, last in said.get("untrained", ()))
        shares = tuple(said.get("shares", ()))
        rows = Rows(**{**said, "shares": shares, "ranges": ranges, "growth": growth, "untrained": untrained})
        columns = [np.load(artifact.file(f"{name}.npy"), mmap_mode="r") for name in ("starts", "rows")]
        return cls(columns[0], columns[1], rows)

    @classmethod
    def _make(cls, folder: Path, out: Path, checkpoint: Artifact, settings: dict[str, Any]) -> "Order":
        from preceptor.recipes.run import Run
        from preceptor.tokenizer.stream import TokenStream
        from preceptor.tokenizer.tokenizer import Tokenizer
        from preceptor.train.blend import pretraining_order
        from preceptor.train.run import PretrainingConfig

        store = Store(out / "artifacts")
        tokenizer = Tokenizer.load(checkpoint.path)
        tokens = store.load("tokens", checkpoint.parents["tokens"])
        blending = settings["blending"]
        sources = {name: (weight, cap) for name, (weight, cap) in blending["sources"].items()}
        order = pretraining_order(
            TokenStream.open(tokens.path, "train", tokenizer),
            decode(PretrainingConfig, settings["pretraining"], where="pretraining"),
            tokenizer,
            settings["seed"],
            Blending(decode(MixtureConfig, blending["config"], where="mixture"), sources),
            decode(Run, {"model": settings["model"]}).model,
        )
        plan, batches = order.objective.plan, order.batches
        facts: dict[str, Any] = {
            "num_rows": plan.num_rows,
            "seed": batches.seed,
            "rows_per_step": batches.rows_per_step,
            # Training may have stopped before its end, and a budget is not known in steps.
            "num_steps": int(checkpoint.facts.get("num_steps", order.num_steps)),
            "untrained": checkpoint.facts.get("untrained_steps", []),
        }
        if batches.growth is not None:
            facts["growth"] = asdict(batches.growth)
        if (blend := batches.blend) is not None:
            facts |= {"shares": blend.mixture.drawn(1 << 40), "mixture_seed": blend.mixture.seed}
            facts["ranges"] = [list(each) for each in blend.ranges]
        rows_of_pieces = np.empty(len(plan.starts), np.uint32)
        rows_of_pieces[plan.pieces] = np.repeat(np.arange(plan.num_rows), np.diff(plan.row_offsets))
        with write_folder(folder, KIND, checkpoint.key, {"checkpoint": checkpoint.id}) as draft:
            np.save(draft.path / "starts.npy", plan.starts)
            np.save(draft.path / "rows.npy", rows_of_pieces)
            draft.facts |= facts
        return cls._read(load(folder, KIND))

    def steps(self, start: int, stop: int) -> list[int]:
        """The steps, counted from 1, whose batch held a token of ``[start, stop)`` of the stream."""
        first, last = np.searchsorted(self.starts, [start, stop])
        rows = np.unique(self.rows_of_pieces[first:last])
        return sorted({step for row in rows.tolist() for step in steps_of(self.rows, row)})


def steps_of(rows: Rows, row: int) -> list[int]:
    """The steps, counted from 1, whose batch held a row: what ``Batches`` draws, undone."""
    sizes = rows.growth or StepSizes(rows.rows_per_step)
    num_samples = sizes.first(rows.num_steps)
    samples = _samples_in_order(rows, row) if not rows.ranges else _samples_in_mixture(rows, row)
    found: list[int] = []
    for earliest, sample in samples:
        if earliest >= num_samples:
            return found
        step = sizes.step_of(sample)
        if sample < num_samples and not any(first <= step < last for first, last in rows.untrained):
            found.append(step + 1)
    return found


def _samples_in_order(rows: Rows, row: int) -> Iterator[tuple[int, int]]:
    """For each epoch the first sample that it may be, and the one that holds the row."""
    for epoch in count():
        first = epoch * rows.num_rows
        yield first, first + _order(rows, rows.num_rows, epoch).inverse(row)


def _samples_in_mixture(rows: Rows, row: int) -> Iterator[tuple[int, int]]:
    source = next(n for n, (first, number) in enumerate(rows.ranges) if first <= row < first + number)
    if not rows.shares[source]:
        return
    first, number = rows.ranges[source]
    mixture = Mixture(rows.shares, rows.mixture_seed)
    for epoch in count():
        place = _order(rows, number, epoch, source).inverse(row - first)
        yield mixture.earliest(source, epoch * number), mixture.place_of(source, epoch * number + place)


def _order(rows: Rows, number: int, *epoch: int) -> KeyedPermutation:
    return KeyedPermutation(number, derive(rows.seed, "order", *epoch))
