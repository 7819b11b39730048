"""The `Run`: the whole and frozen description of what is done, decoded from a recipe and its overrides."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from preceptor.core.config import apply_overrides, decode, read_recipe
from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.data.config import DataConfig
from preceptor.data.executor import ExecutionConfig
from preceptor.footprint.meter import FootprintConfig
from preceptor.models.base_config import BaseConfig
from preceptor.models.config import ModelConfig
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.word_vectors_config import WordVectorsConfig
from preceptor.parallel.mesh_config import MeshConfig
from preceptor.serve.sampling import SamplingConfig
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.train.run import FinetuningConfig, PretrainingConfig

RUN_FILE = "run.json"
_FIRST = DecoderConfig().family


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """What a model is asked once it is trained."""

    context_length: int = 0
    """Context in which perplexity is taken; 0 takes the one the model was trained with."""
    num_questions: int = 200
    """How many held-out questions are asked before and after fine-tuning."""
    max_answer_tokens: int = 48
    """Longest answer."""
    num_memorisation_documents: int = 128
    """How many documents of each split are shown to the model to be continued."""
    ngram_order: int = 5
    """Order of the n-gram model that stands beside the model's bits per byte."""

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        for name in ("num_questions", "max_answer_tokens", "num_memorisation_documents", "ngram_order"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Everything about a run: same Run, same machine kind, same result."""

    name: str = "default"
    """What the run is called."""
    summary: str = ""
    """One line on what it is for."""
    seed: int = 0
    """The seed of everything that is drawn."""
    data: DataConfig = field(default_factory=DataConfig)
    """Documents to corpus."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Corpus to tokenizer."""
    base: BaseConfig = field(default_factory=BaseConfig)
    """A model that exists, to start from in place of random weights."""
    model: ModelConfig = field(default_factory=DecoderConfig)
    """The family and the shape of the model."""
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    """Tokens to a base model."""
    finetuning: FinetuningConfig = field(default_factory=FinetuningConfig)
    """Questions and answers to an adapter."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What is measured."""
    generation: SamplingConfig = field(default_factory=SamplingConfig)
    """How answers are drawn."""
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    """Who does the work of the data stage."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    """Which processes train together."""
    footprint: FootprintConfig = field(default_factory=FootprintConfig)
    """What turns energy into emissions."""

    def __post_init__(self) -> None:
        """Refuse two models, or two tokenizers, where one must be told from the other."""
        if not self.base.model:
            return
        for name, said, silent in (
            ("model", self.model, DecoderConfig()),
            ("tokenizer", self.tokenizer, TokenizerConfig()),
            ("pretraining.word_vectors", self.pretraining.word_vectors, WordVectorsConfig()),
        ):
            if said != silent:
                raise ValueError(f"base.model takes the place of [{name}], which must be left out")


def shipped_recipes() -> dict[str, Path]:
    """The recipes that ship, by name."""
    folder = Path(str(resources.files("preceptor.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_run(recipe: str, overrides: Sequence[str] = ()) -> Run:
    """The run that a recipe describes: the name of one that ships, or the path of a TOML file.

    Raises:
        ConfigError: there is no such recipe, or a key or value of it or of an override is wrong.
    """
    recipes = shipped_recipes()
    path = recipes.get(recipe)
    if path is None:
        path = Path(recipe)
        if path.suffix != ".toml" and not path.exists():
            raise ConfigError(
                f"there is no recipe {recipe!r}",
                expected=f"one of {', '.join(recipes)}, or the path of a TOML file",
                remedy=f"choose from {', '.join(recipes)}, or name a .toml file",
            )
    table = _with_base(read_recipe(path), path, recipes)
    table.setdefault("name", path.stem)
    return decode(Run, apply_overrides(table, overrides))


def stored_run(out: Path, overrides: Sequence[str] = ()) -> Run:
    """The run whose results a folder holds, as its run.json describes it.

    Raises:
        ArtifactError: the folder holds none, or one that this version cannot read.
        ConfigError: a key or value of an override is wrong.
    """
    path = out / RUN_FILE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))["run"]
        decode(Run, table)
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise ArtifactError(
            f"{out} holds no run that can be read: {error}", remedy=f"make one first: `preceptor run --out {out}`"
        ) from error
    return decode(Run, apply_overrides(table, overrides))


def _with_base(table: dict[str, object], path: Path, recipes: dict[str, Path]) -> dict[str, object]:
    """A recipe laid over the shipped one that it extends."""
    base = table.pop("extends", None)
    if base is None:
        return table
    if base not in recipes or recipes[str(base)] == path:
        raise ConfigError(
            f"{path}: extends = {base!r} is not a recipe that ships",
            path="extends",
            remedy=f"choose from {', '.join(recipes)}",
        )
    under = _with_base(read_recipe(recipes[str(base)]), recipes[str(base)], recipes)
    under.pop("name", None)
    return _merged(under, table)


def _merged(under: dict[str, object], over: dict[str, object]) -> dict[str, object]:
    # What a recipe says of a model of one family is nothing to a model of another.
    result = dict(under) if over.get("family", _FIRST) == under.get("family", _FIRST) else {}
    for key, value in over.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def summaries() -> Iterator[tuple[str, str]]:
    """Name and one line of every recipe that ships."""
    for name in shipped_recipes():
        yield name, load_run(name).summary
