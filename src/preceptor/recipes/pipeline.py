"""The pipeline: what each stage is made from, and by what."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from preceptor.core.artifact import Artifact, Draft, Store
from preceptor.core.config import decode, encode
from preceptor.core.errors import ConfigError, DataError
from preceptor.core.seeds import derive
from preceptor.data.corpus import Corpus, Workshop, build
from preceptor.data.example_types import ExampleSet, Task
from preceptor.data.examples import read_examples, split_examples
from preceptor.data.mixture import Blending
from preceptor.data.shards import SPLITS
from preceptor.data.withdrawal import withdrawn
from preceptor.footprint.live import LiveMeter
from preceptor.footprint.meter import Meter
from preceptor.models.config import ModelConfig
from preceptor.objectives.task_config import require_task
from preceptor.recipes import base_model, inputs, python_docs
from preceptor.recipes.examples_view import tell_examples
from preceptor.recipes.folder import newest_model
from preceptor.recipes.run import Run
from preceptor.recipes.seen import Order
from preceptor.recipes.stages import Stages
from preceptor.recipes.unfinished import deciding
from preceptor.serve.sampling import require_beams
from preceptor.tokenizer import stream, training
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from preceptor.recipes.translation import Translator
    from preceptor.train.finetune import ProbabilityTeacher
    from preceptor.train.rate_finder import Note, RangeTest, RateSweep
    from preceptor.train.session import TrainingResult


class Pipeline(Stages):
    """The stages of a run in one output folder."""

    def corpus(self) -> Artifact:
        """The corpus.

        Raises:
            ConfigError: a file that the recipe names, for this stage or a later one, is missing or cannot be read.
        """
        if "data" in self._made:
            return self._made["data"]
        if not self.run.data.sources:
            raise ConfigError(
                "data.sources is empty, so there are no documents",
                path="data.sources",
                remedy="name documents, or only fine-tune the base: `preceptor run` or `preceptor finetune`",
            )
        inputs.require(self.run)
        with self.stop.anywhere():
            return self._corpus()

    def _corpus(self) -> Artifact:
        gone = withdrawn(self.out)
        models = [newest_model(Store(each.folder / "artifacts")) for each in self._translators() or ()]
        parts = [part for model in models for part in model if part is not None]
        settings = {
            "data": self._data_settings(),
            "seed": self.run.seed,
            "inputs": inputs.of_corpus(self.run.data, parts),
            "withdrawn": gone.digest,
        }
        key = self._key("data", settings, {})

        def make(draft: Draft, meter: Meter) -> None:
            workshop = Workshop(self._work("data", key), key, self.run.execution, self.stop.check)
            readers = {"python-docs": python_docs.read}
            build(
                self.run.data,
                self.run.seed,
                draft,
                workshop,
                readers=readers,
                withdrawn=gone,
                translators=self._translators(),
            )

        return self._stage("data", "corpus", settings, {}, make)

    def _data_settings(self) -> dict[str, Any]:
        """What of the data settings decides the corpus: not how its sources are blended in training."""
        settings: dict[str, Any] = encode(self.run.data)
        del settings["mixture"]
        for source in settings["sources"]:
            del source["weight"], source["max_epochs"]
        return settings

    def _translators(self) -> "tuple[Translator, Translator] | None":
        """The models of back-translation, there and back."""
        config = self.run.data.augmentation
        if not config.translate_there:
            return None
        from preceptor.recipes.translation import Translator

        return Translator(Path(config.translate_there)), Translator(Path(config.translate_back))

    def _blending(self) -> Blending:
        """How the sources are blended in training."""
        sources = {source.label: (source.weight, source.max_epochs) for source in self.run.data.sources}
        return Blending(self.run.data.mixture, sources)

    def base(self) -> Artifact | None:
        """The model that the run starts from, with its tokenizer; None where it starts from random weights."""
        if not self.run.base.model:
            return None
        if not self.run.data.sources and "base" not in self._made:
            inputs.require(self.run)
        path = base_model.locate(self.run.base)
        # A base that nothing is trained into before it is fine-tuned is the checkpoint of the run.
        kind = "base" if self.run.data.sources else "checkpoint"

        def make(draft: Draft, meter: Meter) -> None:
            from preceptor.recipes.base_import import take

            take(path, draft, derive(self.run.seed, "base"))

        with self.stop.anywhere():
            return self._stage("base", kind, {"files": inputs.of_base(path), "seed": self.run.seed}, {}, make)

    def tokenizer(self) -> Artifact:
        """The tokenizer: trained, imported, or that of the base."""
        if not self.run.data.sources:
            return self._only_base()
        corpus, base = self.corpus(), self.base()
        config, parents = self.run.tokenizer, {"corpus": corpus}
        settings = encode(config)
        if base is not None:
            config, settings = TokenizerConfig(kind="import", path=str(base.path)), {}
            parents["base"] = base
        elif files := inputs.of_tokenizer(config):
            settings["inputs"] = files

        def make(draft: Draft, meter: Meter) -> None:
            tokenizer = training.train(Corpus.load(corpus.path).texts("train"), config, draft.path)
            draft.facts |= {"kind": config.kind, "vocab_size": tokenizer.vocab_size}
            draft.facts |= {"fingerprint": tokenizer.fingerprint}

        with self.stop.anywhere():
            return self._stage("tokenizer", "tokenizer", settings, parents, make)

    def tokens(self) -> Artifact:
        """The corpus as ids."""
        corpus, tokenizer = self.corpus(), self.tokenizer()

        def make(draft: Draft, meter: Meter) -> None:
            held = Corpus.load(corpus.path)
            documents = {split: held.documents(split) for split in SPLITS}
            stream.encode(documents, Tokenizer.load(tokenizer.path), draft)

        with self.stop.anywhere():
            return self._stage("tokens", "tokens", {}, {"corpus": corpus, "tokenizer": tokenizer}, make)

    def checkpoint(self) -> Artifact:
        """The pre-trained model; the base itself where there are no documents to train it on."""
        if not self.run.data.sources:
            return self._only_base()
        tokens, tokenizer, base = self.tokens(), self.tokenizer(), self.base()
        settings = {
            "model": encode(self.run.model) if base is None else base.facts["model"],
            "pretraining": deciding(encode(self.run.pretraining)),
            "seed": self.run.seed,
            "blending": encode(self._blending()),
        }
        if files := inputs.of_pretraining(self.run.pretraining):
            settings["inputs"] = files
        parents = {"tokens": tokens, "tokenizer": tokenizer} | ({} if base is None else {"base": base})
        model_config: ModelConfig = decode(Run, {"model": settings["model"]}).model

        # The stages that train import torch when they come, so that those before them start at once.
        def make(draft: Draft, meter: Meter) -> None:
            from preceptor.train.pretrain import pretrain

            loaded = Tokenizer.load(tokenizer.path)
            key = self._key("pretrain", settings, parents)
            with self.stop.within(self.run.pretraining.grace_seconds):
                result = pretrain(
                    model_config=model_config,
                    config=self.run.pretraining,
                    train=stream.TokenStream.open(tokens.path, "train", loaded),
                    validation=stream.TokenStream.open(tokens.path, "validation", loaded),
                    tokenizer=loaded,
                    draft=draft if self.team.is_first else None,
                    checkpoints=self._claimed("pretrain", key, settings, parents, encode(self.run.pretraining)),
                    run_key=key,
                    seed=self.run.seed,
                    metrics=self.out / "metrics" / f"pretrain-{key[:12]}.jsonl",
                    stop=self.stop,
                    read_cost=LiveMeter(meter),
                    blending=self._blending(),
                    base=None if base is None else base.path,
                    reader=inputs.reader_of(self.run.data),
                    mesh=self._mesh(self.run.pretraining.device),
                )
            _take(result, draft)
            draft.notes["settings"] = settings

        checkpoint = self._stage("pretrain", "checkpoint", settings, parents, make)
        # Which step saw which document is found out once, now, and not when somebody asks.
        if self.team.is_first:
            Order.of(self.out, checkpoint)
        return checkpoint

    def _only_base(self) -> Artifact:
        base = self.base()
        if base is None:
            raise inputs.nothing_to_start_from()
        return base

    def examples(self) -> tuple[ExampleSet, ExampleSet]:
        """The examples to train on and those held out.

        Raises:
            DataError: they cannot be read, there is nothing to learn from them, or one side is empty.
        """
        config = self.run.finetuning
        train = self._read_examples(config.examples, config.task)
        if config.held_out:
            # What whole numbers are is decided once: a small file may look like classes where a large one does not.
            held_out = self._read_examples(config.held_out, train.task if config.task == "auto" else config.task)
        else:
            sides = split_examples(train.examples, self.run.seed, config.held_out_fraction)
            train, held_out = (replace(train, examples=side) for side in sides)
        if not train.examples or not held_out.examples:
            raise DataError(
                f"{len(train.examples) + len(held_out.examples)} examples cannot be split into training and held-out "
                "ones",
                remedy="add examples, or change finetuning.held_out_fraction",
            )
        return train, held_out

    def _read_examples(self, named: str, task: Literal["auto"] | Task) -> ExampleSet:
        if named == "python-docs":
            return ExampleSet(task="instruct", examples=list(python_docs.examples()), shape="question/answer")
        return read_examples(Path(named), task, self.run.finetuning.columns)

    def _require_examples(self) -> None:
        """Read files of examples, and see that the model can learn from them, before the long work and not after."""
        if self.run.generation.beams > 1:
            require_beams(self.run.generation, inputs.family_of(self.run))
        named = self.run.finetuning.examples
        if not named:
            return
        require_task("instruct" if named == "python-docs" else self.examples()[0].task, inputs.family_of(self.run))

    def adapter(self) -> Artifact | None:
        """The adapter, or None where the recipe names no examples."""
        if not self.run.finetuning.examples:
            return None
        self._require_examples()
        base, tokenizer = self.checkpoint(), self.tokenizer()
        parents = {"checkpoint": base, "tokenizer": tokenizer}
        settings = {
            "finetuning": deciding(encode(self.run.finetuning)),
            "seed": self.run.seed,
            "inputs": inputs.of_examples(self.run.finetuning),
        }
        teacher = self._teacher()
        if teacher is not None:
            settings["teacher"] = teacher.key
        if files := inputs.of_stopping(self.run.finetuning):
            settings["stopping"] = files

        def make(draft: Draft, meter: Meter) -> None:
            from preceptor.train.finetune import finetune

            train, held_out = self.examples()
            loaded = Tokenizer.load(tokenizer.path)
            tell_examples(train, held_out, loaded, is_split=not self.run.finetuning.held_out)
            key = self._key("finetune", settings, parents)
            with self.stop.within(self.run.finetuning.grace_seconds):
                result = finetune(
                    base=base.path,
                    base_id=base.id,
                    config=self.run.finetuning,
                    train=train,
                    held_out=held_out,
                    tokenizer=loaded,
                    draft=draft if self.team.is_first else None,
                    checkpoints=self._claimed("finetune", key, settings, parents, encode(self.run.finetuning)),
                    run_key=key,
                    seed=self.run.seed,
                    metrics=self.out / "metrics" / f"finetune-{key[:12]}.jsonl",
                    stop=self.stop,
                    read_cost=LiveMeter(meter),
                    teacher=teacher,
                    mesh=self._mesh(self.run.finetuning.device),
                )
            _take(result, draft)

        return self._stage("finetune", "adapter", settings, parents, make)

    def _teacher(self) -> "ProbabilityTeacher | None":
        """The larger model whose probabilities are learned, if one is named."""
        named = self.run.finetuning.distil.teacher
        if not named:
            return None
        from preceptor.recipes.distil import teacher_of

        return teacher_of(Path(named))

    def range_test(self, stage: str, sweep: "RateSweep", note: "Note") -> "RangeTest":
        """The learning-rate range test of "pretrain" or "finetune"; it leaves nothing but what the stage starts from.

        Raises:
            ConfigError: the recipe names no examples to fine-tune on.
        """
        from preceptor.train.rate_finder import finetuning_range_test, pretraining_range_test

        if stage == "finetune":
            if not self.run.finetuning.examples:
                raise ConfigError(
                    "finetuning.examples is empty: there is nothing to fine-tune on",
                    path="finetuning.examples",
                    remedy="name a file of examples, or leave out --stage finetune",
                )
            base, tokenizer = self.checkpoint(), Tokenizer.load(self.tokenizer().path)
            examples, _ = self.examples()
            return finetuning_range_test(
                base=base.path,
                config=self.run.finetuning,
                train=examples,
                tokenizer=tokenizer,
                seed=self.run.seed,
                sweep=sweep,
                stop=self.stop,
                note=note,
            )
        tokens, tokenizer, start = self.tokens(), Tokenizer.load(self.tokenizer().path), self.base()
        model_config = self.run.model if start is None else decode(Run, {"model": start.facts["model"]}).model
        return pretraining_range_test(
            model_config=model_config,
            config=self.run.pretraining,
            train=stream.TokenStream.open(tokens.path, "train", tokenizer),
            tokenizer=tokenizer,
            seed=self.run.seed,
            blending=self._blending(),
            base=None if start is None else start.path,
            sweep=sweep,
            stop=self.stop,
            note=note,
        )

    def evaluation(self) -> Artifact:
        """The scores."""
        self._require_examples()
        parents = {}
        if self.run.data.sources:
            parents = {"corpus": self.corpus(), "tokenizer": self.tokenizer(), "tokens": self.tokens()}
        parents["checkpoint"] = self.checkpoint()
        adapter = self.adapter()
        if adapter is not None:
            parents["adapter"] = adapter
        settings = {
            "evaluation": encode(self.run.evaluation),
            "context_length": self.run.pretraining.context_length,
            "seed": self.run.seed,
        }
        if self.run.generation.beams > 1:
            settings["beams"] = [self.run.generation.beams, self.run.generation.length_penalty]

        def make(draft: Draft, meter: Meter) -> None:
            from preceptor.recipes.evaluation import evaluate

            evaluate(
                run=self.run,
                parents={role: parent.path for role, parent in parents.items()},
                examples=self.examples() if adapter is not None else None,
                draft=draft,
                stop=self.stop,
            )

        return self._stage("evaluate", "evaluation", settings, parents, make)


def _take(result: "TrainingResult", draft: Draft) -> None:
    draft.facts |= result.facts
    draft.notes |= {"resumed_cost": dict(result.resumed_cost), "training_seconds": result.state.seconds}
