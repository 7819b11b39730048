"""The newest model of a run's folder, ready to answer."""

import json
from dataclasses import replace
from pathlib import Path

from preceptor.core.artifact import Store
from preceptor.core.config import decode
from preceptor.core.errors import ArtifactError, ConfigError
from preceptor.objectives.task_config import WRITING
from preceptor.recipes.folder import newest_model
from preceptor.recipes.run import RUN_FILE
from preceptor.recipes.tuned import load_writer, task_of
from preceptor.serve.chat import Responder
from preceptor.serve.sampling import SamplingConfig
from preceptor.tokenizer.tokenizer import Tokenizer


def load_responder(
    out: Path, *, with_adapter: bool = True, temperature: float | None = None, seed: int | None = None
) -> Responder:
    """The newest model of a folder with its tokenizer and the run's way to draw.

    Raises:
        ArtifactError: the folder holds no trained model, or a damaged one.
        ConfigError: the temperature is below zero.
    """
    if not out.is_dir():
        raise ArtifactError(f"{out} does not exist", remedy=f"train a model first: `preceptor run --out {out}`")
    checkpoint, adapter = newest_model(Store(out / "artifacts"))
    tuned = adapter.path if with_adapter and adapter is not None else None
    if tuned is not None and (learned := task_of(tuned).task) not in (*WRITING, "prefer"):
        raise ArtifactError(
            f"the model of {out} has learned the task {learned!r}, which is no talking",
            remedy="ask it with `preceptor predict`, or the model below it with --base",
        )
    model = load_writer(checkpoint.path, tuned)
    sampling = sampling_of(out, temperature)
    if seed is not None:
        sampling = replace(sampling, seed=seed)
    return Responder(model, Tokenizer.load(checkpoint.path), sampling)


def sampling_of(out: Path, temperature: float | None = None) -> SamplingConfig:
    """How the run that is described in the folder draws its answers, at another temperature where one is given.

    Beams draw nothing, so that with a temperature above zero there are none.

    Raises:
        ConfigError: the temperature is below zero.
    """
    try:
        table = json.loads((out / RUN_FILE).read_text(encoding="utf-8"))
        sampling = decode(SamplingConfig, table["run"]["generation"], where="generation")
    except (OSError, ValueError, KeyError):
        sampling = SamplingConfig()
    try:
        if temperature is None:
            return sampling
        return replace(sampling, temperature=temperature, beams=1 if temperature else sampling.beams)
    except ValueError as error:
        raise ConfigError(str(error), remedy="use 0 for the likeliest answer, or about 0.7") from error
