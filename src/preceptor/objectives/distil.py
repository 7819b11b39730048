"""Distillation: beside what an answer says, what a larger model would have thought likely at each of its tokens."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from preceptor.core.drafts import write_file
from preceptor.core.errors import ConfigError, output_errors
from preceptor.core.files import make_folder
from preceptor.core.progress import Progress
from preceptor.models.language_model import LanguageModel
from preceptor.nn.losses import IGNORED
from preceptor.objectives.batch import Batch, LossSum, Objective, on_device
from preceptor.objectives.distil_config import DistilConfig
from preceptor.objectives.packing import PackingPlan
from preceptor.tokenizer.tokenizer import Tokenizer

_CHUNK_SCORES = 1 << 25
"""How many scores, tokens times vocabulary, are made at once; each takes four bytes, several times over."""


class PackedObjective(Objective, Protocol):
    """An objective over documents that are packed into rows."""

    plan: PackingPlan


class DistilObjective:
    """An objective whose loss is, in part, how far the model is from a teacher at the supervised places.

    Of the teacher's probabilities the likeliest are kept for each place, in files that are mapped into memory; all
    others count as one more token. The loss is (1 - weight) times the objective's own and weight times temperature
    squared times the divergence KL(teacher, model), both at the temperature.

    Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network.
    """

    def __init__(
        self,
        packed: PackedObjective,
        teacher: Callable[[], LanguageModel],
        config: DistilConfig,
        folder: Path,
        *,
        teacher_key: str,
        vocab_size: int,
    ) -> None:
        self.packed, self.config = packed, config
        self.num_rows, self.plan = packed.num_rows, packed.plan
        counts, digest = self._survey()
        self._first = np.cumsum([0, *counts])
        kept = min(config.top_k, vocab_size)
        # Where all tokens are kept there is no rest.
        columns = kept + (kept < vocab_size)
        self._ids_file = _Column(folder / "ids.u32", np.uint32, (int(self._first[-1]), kept))
        self._logs_file = _Column(folder / "log-probabilities.f32", np.float32, (int(self._first[-1]), columns))
        key = json.dumps([teacher_key, asdict(config), vocab_size, digest])
        key_file = folder / "key.json"
        if not (key_file.is_file() and key_file.read_text() == key and self._is_whole()):
            make_folder(folder)
            key_file.unlink(missing_ok=True)
            with output_errors(folder):
                self._ask(teacher(), vocab_size)
            write_file(key_file, key)
        self._ids, self._logs = self._ids_file.opened("r"), self._logs_file.opened("r")

    def _is_whole(self) -> bool:
        return self._ids_file.is_whole and self._logs_file.is_whole

    def _survey(self) -> tuple[list[int], str]:
        """How many supervised places each row has, and what tells these rows from others."""
        counts, digest = [], hashlib.sha256()
        for row in range(self.num_rows):
            batch = self.packed.collate([row])
            counts.append(int((batch.labels_BT != IGNORED).sum()))
            source = () if batch.inputs.source is None else (batch.inputs.source.tokens_BT,)
            for tensor in (batch.tokens_BT, batch.labels_BT, *source):
                digest.update(tensor.numpy().tobytes())
        return counts, digest.hexdigest()

    @torch.no_grad()
    def _ask(self, teacher: LanguageModel, vocab_size: int) -> None:
        """Write for each supervised place the likeliest tokens, and the logarithms of their share and of the rest's."""
        ids, logs = self._ids_file.opened("w+"), self._logs_file.opened("w+")
        device = next(teacher.parameters()).device
        teacher.eval()
        with Progress("teacher", len(ids), "tokens") as progress:
            for row in range(self.num_rows):
                batch = on_device(self.packed.collate([row]), device)
                hidden_MD = teacher.hidden(batch.inputs)[batch.labels_BT != IGNORED]
                place = int(self._first[row])
                for hidden_CD in torch.split(hidden_MD, _chunk_tokens(teacher)):
                    here = slice(place, place + len(hidden_CD))
                    scores_CV = teacher.score(hidden_CD)[:, :vocab_size].float()
                    log_CV = (scores_CV / self.config.temperature).log_softmax(dim=-1)
                    likeliest_CK = log_CV.topk(ids.shape[1], dim=-1).indices
                    ids[here] = likeliest_CK.cpu().numpy()
                    logs[here] = _with_rest(log_CV, likeliest_CK).cpu().numpy()
                    place = here.stop
                progress.advance(len(hidden_MD))
        ids.flush()
        logs.flush()

    def collate(self, rows: Sequence[int], samples: Sequence[int] | None = None) -> Batch:
        """The batch that holds these rows, in this order, with what the teacher thinks of them."""
        batch = self.packed.collate(rows, samples)
        places = np.concatenate([np.arange(self._first[row], self._first[row + 1]) for row in rows])
        # One tensor for both: float64 holds every id, and every float32 as it is.
        told = np.concatenate([self._ids[places], self._logs[places]], axis=1, dtype=np.float64)
        return replace(batch, targets=torch.from_numpy(told))

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The summed loss of a batch, and how many of its supervised tokens were the likeliest."""
        assert isinstance(model, LanguageModel) and batch.targets is not None
        supervised_BT = batch.labels_BT != IGNORED
        hidden_MD, labels_M = model.hidden(batch.inputs)[supervised_BT], batch.labels_BT[supervised_BT]
        total = torch.zeros((), device=hidden_MD.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden_MD.device)
        size = _chunk_tokens(model)
        for chunk in zip(
            torch.split(hidden_MD, size), torch.split(labels_M, size), torch.split(batch.targets, size), strict=True
        ):
            # The scores of a chunk are made once more in the backward pass, so that those of all are never in memory.
            loss, right = checkpoint(self._of_chunk, model, *chunk, use_reentrant=False, preserve_rng_state=False)
            total, correct = total + loss, correct + right
        return LossSum(total, correct, len(labels_M))

    def _of_chunk(
        self, model: LanguageModel, hidden_CD: Tensor, labels_C: Tensor, told: Tensor
    ) -> tuple[Tensor, Tensor]:
        weight, temperature = self.config.weight, self.config.temperature
        kept = told.shape[1] // 2
        ids_CK, teacher_CK = told[:, :kept].long(), told[:, kept:].float()
        scores_CV = model.score(hidden_CD).float()
        model_CK = _with_rest((scores_CV / temperature).log_softmax(dim=-1), ids_CK)[:, : teacher_CK.shape[1]]
        divergence = F.kl_div(model_CK, teacher_CK, reduction="sum", log_target=True)
        total = weight * temperature**2 * divergence
        if weight < 1:
            total = total + (1 - weight) * F.cross_entropy(scores_CV, labels_C, reduction="sum")
        return total, (scores_CV.argmax(dim=-1) == labels_C).sum()


def distil_objective(
    objective: PackedObjective,
    tokenizer: Tokenizer,
    teacher: Callable[[], LanguageModel],
    teacher_tokenizer: Tokenizer,
    config: DistilConfig,
    folder: Path,
    *,
    teacher_key: str,
    context_length: int,
) -> DistilObjective:
    """The objective that also learns from a teacher, whose probabilities are kept in ``folder``.

    ``teacher`` loads it, and is called only where the files of the same teacher (by ``teacher_key``), settings and
    rows are not there yet.

    Raises:
        ConfigError: its tokenizer is another, so that its tokens mean something else, its context is too short, or a
            prompt stands in front of what either reads, which the other does not know.
    """
    if tokenizer.fingerprint != teacher_tokenizer.fingerprint:
        raise ConfigError(
            "the teacher has another tokenizer than the base, so that its probabilities are of other tokens",
            path="finetuning.distil.teacher",
            remedy="let it write answers instead: `preceptor distil TEACHER EXAMPLES --to FILE`, and learn from those "
            "with finetuning.examples=FILE",
        )

    def asked() -> LanguageModel:
        model = teacher()
        longest = getattr(model.config, "max_position_embeddings", None)
        longest = None if longest is None else longest - model.num_prefix_tokens
        if longest is not None and longest < context_length:
            raise ConfigError(
                f"the teacher has positions for {longest} tokens only, and a row has {context_length}",
                path="finetuning.context_length",
                remedy=f"set finetuning.context_length={longest} or less, or take another teacher",
            )
        return model

    return DistilObjective(objective, asked, config, folder, teacher_key=teacher_key, vocab_size=tokenizer.vocab_size)


@dataclass(frozen=True, slots=True)
class _Column:
    """A file that holds one array."""

    path: Path
    dtype: type[np.generic]
    shape: tuple[int, int]

    @property
    def is_whole(self) -> bool:
        size = self.shape[0] * self.shape[1] * np.dtype(self.dtype).itemsize
        return self.path.is_file() and self.path.stat().st_size == size

    def opened(self, mode: Literal["r", "w+"]) -> np.memmap[Any, Any]:
        return np.memmap(self.path, self.dtype, mode, shape=self.shape)


def _with_rest(log_CV: Tensor, ids_CK: Tensor) -> Tensor:
    """The logarithms of the probabilities of some tokens and, where there are others, of all others together."""
    chosen_CK = log_CV.gather(1, ids_CK)
    if ids_CK.shape[1] == log_CV.shape[1]:
        return chosen_CK
    rest_C1 = log_CV.scatter(1, ids_CK, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat([chosen_CK, rest_C1], dim=1)


def _chunk_tokens(model: LanguageModel) -> int:
    return max(1, _CHUNK_SCORES // model.num_scores)
