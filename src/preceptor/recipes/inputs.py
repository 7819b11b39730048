"""The files that a recipe names: looked at before any work begins, and known by content, so that changes are seen."""

import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from preceptor.core.artifact import Artifact
from preceptor.core.errors import ConfigError, DataError, PreceptorError
from preceptor.data import bias, contamination, sources
from preceptor.data.config import DataConfig
from preceptor.data.examples import read_examples
from preceptor.data.held_out import read_texts
from preceptor.data.opt_out import OptOut
from preceptor.data.personal import Redactor
from preceptor.data.walking import find
from preceptor.models.config import ModelConfig
from preceptor.models.word_vector_files import open_vectors
from preceptor.objectives.objective_config import ObjectiveConfig, require_fit
from preceptor.parallel.mesh_config import require_processes
from preceptor.recipes.base_model import files, locate
from preceptor.recipes.run import Run
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.imports import import_tokenizer
from preceptor.train.run import FinetuningConfig, PretrainingConfig, TrainingConfig, require_context
from preceptor.train.tracking_config import require_loggers
from preceptor.train.validation_config import MEASURE, ValidationSetConfig, require_measures, source_names
from preceptor.train.warmup_config import require_cuttable

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja")


def require(run: Run) -> None:
    """Refuse a recipe that names a list, an evaluation set or a tokenizer which is not there or cannot be read.

    Otherwise that would be told when it is needed: in the middle of the work, or at its end.

    Raises:
        ConfigError: names the key, the path and what to do.
    """
    _require_fit(run)
    _require_sets(run)
    for key, name, look in _named(run):
        try:
            look()
        except PreceptorError as error:
            if name and not Path(name).expanduser().exists():
                raise ConfigError(
                    f"{key} is {name!r}, where there is nothing",
                    path=key,
                    remedy=f"correct {key}, which is looked for from {Path.cwd()}, or leave it out",
                ) from error
            said = error.message if error.message.startswith(key) else f"{key}: {error.message}"
            raise ConfigError(said, path=key, remedy=error.remedy) from error


def nothing_to_start_from() -> ConfigError:
    """The error of a run that has neither documents nor a base model."""
    return ConfigError(
        "data.sources is empty and base.model names no model, so there is nothing to start from",
        path="base.model",
        remedy="set base.model to a folder, a .gguf file or hub:OWNER/NAME, or name documents in data.sources",
    )


def _require_fit(run: Run) -> None:
    """Refuse stages that do not go together, and loggers that are not installed."""
    require_loggers(run.pretraining.tracking, "pretraining.tracking")
    require_loggers(run.finetuning.tracking, "finetuning.tracking")
    if not run.data.sources:
        _require_base_alone(run)
        return
    if run.base.model:
        from preceptor.recipes.model_lookup import config_at

        model = config_at(locate(run.base))
    else:
        model = run.model
        _require_tokens(run.pretraining.objective, run.tokenizer)
    require_fit(run.pretraining.objective, model.family)
    require_cuttable(run.pretraining.objective.kind, run.pretraining.context_warmup)
    require_context(model, run.pretraining.context_length)
    _require_machine(run, model)
    if run.finetuning.examples:
        require_context(model, run.finetuning.context_length)


def family_of(run: Run) -> str:
    """The family of the model that a run trains."""
    if not run.base.model:
        return run.model.family
    from preceptor.recipes.model_lookup import config_at

    family: str = config_at(locate(run.base)).family
    return family


def _require_base_alone(run: Run) -> None:
    """Refuse a run without documents that has no model, or nothing to teach it."""
    if not run.base.model:
        raise nothing_to_start_from()
    from preceptor.recipes.model_lookup import config_at

    model = config_at(locate(run.base))
    if not run.finetuning.examples:
        raise ConfigError(
            "data.sources and finetuning.examples are both empty, so there is nothing to learn from",
            path="finetuning.examples",
            remedy="name a file of examples, or documents in data.sources",
        )
    _require_machine(run, model)
    require_context(model, run.finetuning.context_length)


def _require_machine(run: Run, model: ModelConfig) -> None:
    """Refuse what this machine or its mesh of processes cannot do, and groups of weights that name none.

    Nothing is asked where nothing out of the ordinary is set, since asking takes PyTorch.
    """
    stages: dict[str, TrainingConfig] = {"pretraining": run.pretraining} if run.data.sources else {}
    if run.finetuning.examples:
        stages["finetuning"] = run.finetuning
    for name, config in stages.items():
        if config.device == "cuda" or config.precision.kind == "float8" or config.memory.optimizer_bits == 8:
            from preceptor.train.placement import require_machine

            require_machine(config, name)
        if require_processes(run.mesh).world > 1:
            from preceptor.train.placement import require_mesh

            require_mesh(config, model, run.mesh, name)
    if run.pretraining.optimizer.groups and run.data.sources:
        from preceptor.train.placement import require_groups

        require_groups(run.pretraining, model)


def _require_sets(run: Run) -> None:
    """Refuse early stopping by what will not be measured, and validation sets that are trained on."""
    labels = source_names([source.label for source in run.data.sources]).values()
    stopping = run.pretraining.early_stopping.metric
    require_measures("pretraining", stopping, run.pretraining.validation_sets, labels)
    require_measures("finetuning", run.finetuning.early_stopping.metric, run.finetuning.validation_sets, ())


def _require_tokens(objective: ObjectiveConfig, tokenizer: TokenizerConfig) -> None:
    """Refuse an objective for which the tokenizer that is to be trained lacks tokens; an import is looked into later.

    Raises:
        ConfigError: names the key that gives them.
    """
    lacking = {"masked": not tokenizer.mask_token, "spans": not tokenizer.num_sentinels}
    if tokenizer.kind != "import" and lacking.get(objective.kind):
        key, value = {"masked": ("mask_token", "true"), "spans": ("num_sentinels", "32")}[objective.kind]
        raise ConfigError(
            f"the objective {objective.kind!r} needs tokens that stand for hidden ones, and the tokenizer has none",
            path=f"tokenizer.{key}",
            remedy=f"set tokenizer.{key} = {value}",
        )


def _named(run: Run) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """For each key that names a file: the key, what it says, and a look into the file."""
    data = run.data
    if data.rights.opt_out:
        yield "data.rights.opt_out", data.rights.opt_out, partial(OptOut.load, data.rights.opt_out)
    if run.tokenizer.kind == "import":
        path = run.tokenizer.path
        yield "tokenizer.path", path, partial(import_tokenizer, Path(path), run.tokenizer.split_pattern)
    if vectors := run.pretraining.word_vectors.path:
        yield "pretraining.word_vectors.path", vectors, partial(open_vectors, Path(vectors))
    for each in run.pretraining.validation_sets:
        # What a pattern names is not there by that name.
        name = "" if set(each.path) & set("*?[") else each.path
        yield "pretraining.validation_sets", name, partial(_look_into, each, run)
    for each in run.finetuning.validation_sets if run.finetuning.examples else ():
        look = partial(read_examples, Path(each.path), run.finetuning.task, run.finetuning.columns)
        yield "finetuning.validation_sets", each.path, look
    for name in data.bias.groups:
        yield "data.bias.groups", name, partial(bias.read_lexicon, name)
    if data.bias.attributes:
        yield "data.bias.attributes", data.bias.attributes, partial(bias.read_lexicon, data.bias.attributes)
    if data.contamination.paths:
        yield "data.contamination.paths", "", partial(contamination.inputs, data.contamination)


def _look_into(config: ValidationSetConfig, run: Run) -> None:
    """Read a validation set once, and see that no file of it is also a file of the corpus.

    Raises:
        ConfigError: it is trained on.
        DataError: it cannot be read, or there is no text in it.
    """
    for _ in read_texts(config.source, reader_of(run.data)):
        pass
    held_out = _files_of(config.path)
    for source in run.data.sources:
        if source.kind == "files" and (both := sorted(held_out & _files_of(source.path))):
            raise ConfigError(
                f"the set {config.name!r} is trained on: {both[0]} is a file of the source {source.label!r}",
                remedy="move it out of what the source reads",
            )


def _files_of(path: str) -> set[str]:
    """The files behind a path or a pattern, wherever links to them lie; none where nothing is there."""
    try:
        return {os.path.realpath(found.path) for found in find(path)}
    except (FileNotFoundError, ValueError):
        # The data stage says so, in the words of data.sources.
        return set()


def of_corpus(config: DataConfig, translators: Iterable[Artifact]) -> list[str]:
    """What a corpus is read from, by content, and the models that translate for it."""
    named = [config.rights.opt_out, config.augmentation.lexicon, config.bias.attributes, *config.bias.groups]
    return [
        *(f"python {platform.python_version()}" for source in config.sources if source.kind == "python-docs"),
        *sources.inputs([source for source in config.sources if source.kind != "python-docs"]),
        *(content(Path(path)) for path in named if path and Path(path).suffix),
        *contamination.inputs(config.contamination),
        Redactor(config.personal).key_fingerprint,
        *(artifact.id for artifact in translators),
    ]


def of_tokenizer(config: TokenizerConfig) -> list[str]:
    """The files of the tokenizer that is imported, by content: another file at the same path is another tokenizer."""
    if config.kind != "import":
        return []
    path = Path(config.path)
    files = [path / name for name in _TOKENIZER_FILES] if path.is_dir() else [path]
    return [content(file) for file in files if file.is_file()]


def of_base(path: Path) -> list[str]:
    """The model that training starts from, by the content of its files, wherever they lie."""
    return [f"{file.name} {_digest(file)}" for file in files(path)]


def of_pretraining(config: PretrainingConfig) -> list[str]:
    """The files that pre-training reads beside the tokens and that decide its weights, by content."""
    vectors = [content(Path(config.word_vectors.path))] if config.word_vectors.path else []
    return [*vectors, *of_stopping(config)]


def of_stopping(config: TrainingConfig) -> list[str]:
    """The files of the validation set that training stops by, by content; the others change no weights."""
    stopping = config.early_stopping
    chosen = [each.source for each in config.validation_sets if MEASURE + each.name == stopping.metric]
    return sources.inputs(chosen) if stopping.patience else []


def reader_of(config: DataConfig) -> sources.Reader:
    """What reads texts that are only measured on, within the limits that a recipe sets for its data."""
    return sources.Reader((), config.max_record_bytes, config.on_bad_input == "stop", detect_licences=False)


def of_examples(config: FinetuningConfig) -> list[str]:
    """What a model is fine-tuned on and held to, by content."""
    named = [name for name in (config.examples, config.held_out) if name]
    return [f"python {platform.python_version()}" if name == "python-docs" else content(Path(name)) for name in named]


def content(path: Path) -> str:
    """A file's name with the digest of what it holds; what is no file has its name alone.

    Raises:
        DataError: it cannot be read.
    """
    return f"{path} {_digest(path)}" if path.is_file() else f"{path}"


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", remedy="check its permissions, or leave it out"
        ) from error
