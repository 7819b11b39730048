"""A model that we trained as a translator, for back-translation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from preceptor.recipes.answering import load_responder
from preceptor.serve.chat import Responder


@dataclass(frozen=True, slots=True)
class Translator:
    """The newest model of a run's folder, asked sentence by sentence; loaded when first asked, once in each process."""

    folder: Path

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The likeliest answer to each text.

        Raises:
            ArtifactError: the folder holds no trained model, or a damaged one.
        """
        return _responder(self.folder).answer_many(texts) if texts else []


@cache
def _responder(folder: Path) -> Responder:
    responder = load_responder(folder, temperature=0.0)
    # One beginning is followed whatever the run says, so that what it says of beams changes no corpus.
    return replace(responder, sampling=replace(responder.sampling, beams=1))
