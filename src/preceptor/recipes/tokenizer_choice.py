"""Several tokenizers compared on the corpus of a run: its own, those that exist, and those trained for the purpose."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import torch

from preceptor.core.config import decode
from preceptor.core.errors import ConfigError, PreceptorError
from preceptor.core.progress import say
from preceptor.data.corpus import Corpus
from preceptor.models.interchange import architecture_of
from preceptor.recipes.folder import newest
from preceptor.recipes.run import Run, stored_run
from preceptor.recipes.tokenizer_report import Row, compare
from preceptor.tokenizer.config import TokenizerConfig
from preceptor.tokenizer.tokenizer import Tokenizer
from preceptor.tokenizer.training import train

OWN = "this run's"
KINDS = tuple(kind for kind in get_args(get_type_hints(TokenizerConfig)["kind"]) if kind != "import")


def compare_for_run(out: Path, named: Sequence[str]) -> list[Row]:
    """One row for the tokenizer of the run and one for each that is named, on the documents for validation.

    A name is a kind, such as ``unigram`` or ``word:8000``, which is then trained on the run's corpus; or a Hugging Face
    folder, a tokenizer.json, a tiktoken file or a SentencePiece model. Without names every kind is trained.

    Raises:
        ArtifactError: the folder holds no run, or no corpus and tokenizer yet.
        ConfigError: a name is neither a kind nor a place, or a kind cannot be trained so large.
    """
    run = stored_run(out)
    corpus = Corpus.load(newest(out, "corpus").path)
    own = Tokenizer.load(newest(out, "tokenizer").path)
    compared = {OWN: own}
    with tempfile.TemporaryDirectory() as scratch:
        for number, name in enumerate(named or [kind for kind in KINDS if kind != run.tokenizer.kind]):
            folder = Path(scratch, str(number))
            folder.mkdir()
            try:
                compared[name] = train(corpus.texts("train"), _config(name, own.vocab_size), folder)
            except PreceptorError as error:
                if named:
                    raise
                # Asked for all kinds, the report shows those that this text can give.
                say(f"{name}: left out: {error.message}")
        return compare(
            compared,
            corpus.documents("validation"),
            hidden_size=run.model.hidden_size,
            body_parameters=_body_parameters(run, own.vocab_size),
            is_tied=run.model.tie_word_embeddings,
        )


def _config(name: str, vocab_size: int) -> TokenizerConfig:
    kind, _, size = name.partition(":")
    if kind in KINDS and (not size or size.isdecimal()):
        return decode(TokenizerConfig, {"kind": kind, "vocab_size": int(size) if size else vocab_size})
    if Path(name).exists():
        return TokenizerConfig(kind="import", path=name)
    raise ConfigError(
        f"{name!r} is no kind of tokenizer and no file or folder",
        expected=f"one of {', '.join(KINDS)}, such as unigram:8000, or the path of a tokenizer",
        remedy="name a kind, a Hugging Face folder, a tokenizer.json, a tiktoken file or a SentencePiece model",
    )


def _body_parameters(run: Run, vocab_size: int) -> int:
    """The parameters of the run's model without its embeddings; the model is only described, not made."""
    with torch.device("meta"):
        config = replace(run.model, vocab_size=run.model.vocab_size or vocab_size)
        model = architecture_of(config).family.module(config)
    embeddings = {id(model.input_embedding.weight), id(model.output_weight_VD)}
    return sum(weight.numel() for weight in model.parameters() if id(weight) not in embeddings)
