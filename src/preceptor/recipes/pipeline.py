"""The pipeline: each stage is made once, remembered by its key, and made again only when what it depends on changes."""

import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preceptor.core.artifact import Artifact, Draft, Store
from preceptor.core.config import digest, encode
from preceptor.core.errors import ArtifactError, DataError
from preceptor.core.interrupt import Stop
from preceptor.core.progress import say
from preceptor.data.corpus import Corpus, build
from preceptor.data.document import Document, Rejected
from preceptor.data.examples import Example, read_examples, split_examples
from preceptor.data.sources import Reader
from preceptor.footprint.meter import Meter, Reading, measure
from preceptor.recipes import python_docs
from preceptor.recipes.evaluation import evaluate
from preceptor.recipes.run import Run
from preceptor.tokenizer import bpe, stream
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.train.finetune import finetune
from preceptor.train.pretrain import TrainingResult, pretrain

FORMAT = 2
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
class Pipeline:
    """The stages of a run in one output folder."""

    run: Run
    out: Path
    stop: Stop
    rows: list[StageRow] = field(default_factory=list)
    _made: dict[str, Artifact] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Open the store and clear away what killed runs have left."""
        self.store = Store(self.out / "artifacts")
        self.store.sweep()

    def corpus(self) -> Artifact:
        """The corpus."""

        def make(draft: Draft, meter: Meter) -> None:
            build(self._records(), self.run.data, self.run.seed, draft)

        settings = {"data": encode(self.run.data), "seed": self.run.seed, "inputs": self._inputs()}
        return self._stage("data", "corpus", settings, {}, make)

    def tokenizer(self) -> Artifact:
        """The tokenizer."""
        corpus = self.corpus()

        def make(draft: Draft, meter: Meter) -> None:
            tokenizer = bpe.train(Corpus.load(corpus.path).texts("train"), self.run.tokenizer, draft.path)
            draft.facts |= {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}

        return self._stage("tokenizer", "tokenizer", encode(self.run.tokenizer), {"corpus": corpus}, make)

    def tokens(self) -> Artifact:
        """The corpus as ids."""
        corpus, tokenizer = self.corpus(), self.tokenizer()

        def make(draft: Draft, meter: Meter) -> None:
            documents = {split: list(Corpus.load(corpus.path).documents(split)) for split in ("train", "validation")}
            texts = {split: [document.text for document in members] for split, members in documents.items()}
            names = {split: [document.id for document in members] for split, members in documents.items()}
            stream.encode(texts, names, Tokenizer.load(tokenizer.path), draft)

        return self._stage("tokens", "tokens", {}, {"corpus": corpus, "tokenizer": tokenizer}, make)

    def checkpoint(self) -> Artifact:
        """The pre-trained model."""
        tokens, tokenizer = self.tokens(), self.tokenizer()
        settings = {
            "model": encode(self.run.model),
            "pretraining": encode(self.run.pretraining),
            "seed": self.run.seed,
        }
        parents = {"tokens": tokens, "tokenizer": tokenizer}

        def make(draft: Draft, meter: Meter) -> None:
            loaded = Tokenizer.load(tokenizer.path)
            key = self._key("pretrain", settings, parents)
            result = pretrain(
                model_config=self.run.model,
                config=self.run.pretraining,
                train=stream.TokenStream.open(tokens.path, "train", loaded),
                validation=stream.TokenStream.open(tokens.path, "validation", loaded),
                tokenizer=loaded,
                draft=draft,
                checkpoints=self._checkpoints("pretrain", key),
                run_key=key,
                seed=self.run.seed,
                metrics=self.out / "metrics" / f"pretrain-{key[:12]}.jsonl",
                stop=self.stop,
                read_cost=lambda: meter.read().facts(),
            )
            _take(result, draft)

        return self._stage("pretrain", "checkpoint", settings, parents, make)

    def examples(self) -> tuple[list[Example], list[Example]]:
        """The examples to train on and those held out."""
        config = self.run.finetuning
        named = config.examples
        examples = list(python_docs.examples()) if named == "python-docs" else read_examples(Path(named))
        train, held_out = split_examples(examples, self.run.seed, config.held_out_fraction)
        if not train or not held_out:
            raise DataError(
                f"{len(examples)} examples cannot be split into training and held-out ones",
                remedy="add examples, or change finetuning.held_out_fraction",
            )
        return train, held_out

    def adapter(self) -> Artifact | None:
        """The adapter, or None where the recipe names no examples."""
        if not self.run.finetuning.examples:
            return None
        base, tokenizer = self.checkpoint(), self.tokenizer()
        parents = {"checkpoint": base, "tokenizer": tokenizer}
        settings = {
            "finetuning": encode(self.run.finetuning),
            "seed": self.run.seed,
            "inputs": self._example_inputs(),
        }

        def make(draft: Draft, meter: Meter) -> None:
            train, held_out = self.examples()
            key = self._key("finetune", settings, parents)
            result = finetune(
                base=base.path,
                base_id=base.id,
                config=self.run.finetuning,
                train=train,
                held_out=held_out,
                tokenizer=Tokenizer.load(tokenizer.path),
                draft=draft,
                checkpoints=self._checkpoints("finetune", key),
                run_key=key,
                seed=self.run.seed,
                metrics=self.out / "metrics" / f"finetune-{key[:12]}.jsonl",
                stop=self.stop,
                read_cost=lambda: meter.read().facts(),
            )
            _take(result, draft)

        return self._stage("finetune", "adapter", settings, parents, make)

    def evaluation(self) -> Artifact:
        """The scores."""
        corpus, tokenizer, tokens, base = self.corpus(), self.tokenizer(), self.tokens(), self.checkpoint()
        adapter = self.adapter()
        parents = {"corpus": corpus, "tokenizer": tokenizer, "tokens": tokens, "checkpoint": base}
        if adapter is not None:
            parents["adapter"] = adapter
        settings = {
            "evaluation": encode(self.run.evaluation),
            "context_length": self.run.pretraining.context_length,
            "seed": self.run.seed,
        }

        def make(draft: Draft, meter: Meter) -> None:
            evaluate(
                run=self.run,
                parents={role: parent.path for role, parent in parents.items()},
                held_out=self.examples()[1] if adapter is not None else [],
                draft=draft,
                stop=self.stop,
            )

        return self._stage("evaluate", "evaluation", settings, parents, make)

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
        artifact = self.store.find(kind, key)
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
        say(f"{stage}: {'exists' if reused else 'made'}, {kind} {artifact.path.name}")
        self._made[stage] = artifact
        self.rows.append(StageRow(stage, artifact, reused))
        return artifact

    def _key(self, stage: str, settings: Mapping[str, Any], parents: Mapping[str, Artifact]) -> str:
        ids = {role: parent.id for role, parent in parents.items()}
        return digest({"stage": stage, "format": FORMAT, "settings": dict(settings), "parents": ids})

    def _checkpoints(self, stage: str, key: str) -> Path:
        return self.out / "checkpoints" / f"{stage}-{key[:12]}"

    def _forget_checkpoints(self, stage: str, key: str) -> None:
        """The states on the way to an artifact that now stands are of no further use."""
        shutil.rmtree(self._checkpoints(stage, key), ignore_errors=True)

    def _records(self) -> Iterator[Document | Rejected]:
        config = self.run.data
        reader = Reader(config.max_record_bytes, config.on_bad_input == "stop")
        for source in config.sources:
            records = python_docs.documents() if source.kind == "python-docs" else reader.read(source)
            for record in records:
                self.stop.check()
                yield record

    def _inputs(self) -> list[str]:
        """What the corpus is read from, by content: it changes when a file does."""
        found = []
        for source in self.run.data.sources:
            if source.kind == "python-docs":
                found.append(f"python {platform.python_version()}")
                continue
            root = Path(source.path).expanduser()
            paths = sorted(Path(folder) / name for folder, _, names in os.walk(root) for name in names)
            found += [_content(path) for path in ([root] if root.is_file() else paths)]
        return found

    def _example_inputs(self) -> str:
        named = self.run.finetuning.examples
        return f"python {platform.python_version()}" if named == "python-docs" else _content(Path(named))


def _take(result: TrainingResult, draft: Draft) -> None:
    draft.facts |= result.facts
    draft.notes |= {"resumed_cost": dict(result.resumed_cost), "training_seconds": result.state.seconds}


def _content(path: Path) -> str:
    """A file's name with the digest of what it holds; what is no file has its name alone."""
    if not path.is_file():
        return f"{path}"
    try:
        with path.open("rb") as file:
            return f"{path} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", remedy="check its permissions, or leave it out"
        ) from error


def newest_model(store: Store) -> tuple[Artifact, Artifact | None]:
    """The newest checkpoint of a folder, and its newest adapter if it has one.

    Raises:
        ArtifactError: there is none.
    """
    checkpoints = store.all("checkpoint")
    if not checkpoints:
        raise ArtifactError(
            f"{store.root.parent} holds no trained model", remedy="train one first: `preceptor run --out DIR`"
        )
    checkpoint = max(checkpoints, key=lambda artifact: artifact.created)
    own = [adapter for adapter in store.all("adapter") if adapter.parents.get("checkpoint") == checkpoint.id]
    return checkpoint, max(own, key=lambda artifact: artifact.created, default=None)
