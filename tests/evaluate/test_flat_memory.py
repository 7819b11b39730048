"""Evaluation holds no more when there is ten times as much to evaluate: no logits, no batches, no losses by token."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from preceptor.evaluate import perplexity
from preceptor.evaluate.objective_score import score_objective
from preceptor.evaluate.perplexity import document_losses
from preceptor.objectives.causal import CausalObjective
from preceptor.parallel.engine import place
from preceptor.train.session import measured

CONTEXT, END, VOCAB_SIZE, FEW = 32, 0, 40, 6


class Held(TorchDispatchMode):
    """The most bytes of tensors, of those that operations make, that are alive at one time."""

    def __init__(self):
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def _gone(self, key):
        self.now -= self.alive.pop(key, 0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.alive:
                    self.alive[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, key)
                self.peak = max(self.peak, self.now)
        return out


def documents(number):
    draw = np.random.default_rng(0)
    few = [draw.integers(1, VOCAB_SIZE, CONTEXT - 1).tolist() for _ in range(FEW)]
    return [few[index % FEW] for index in range(number)]


def by_document(model, stream):
    document_losses(model, stream, END, CONTEXT)


def by_row(model, stream):
    objective = CausalObjective(stream, CONTEXT, END)
    score_objective(model, objective, range(objective.num_rows), stream, VOCAB_SIZE)


def in_training(model, stream):
    objective = CausalObjective(stream, CONTEXT, END)
    measured(place(model), objective, range(objective.num_rows), 2)


def bytes_held(work, model, stream):
    work(model, stream)
    gc.collect()
    with Held() as held:
        work(model, stream)
    assert held.peak > 0
    return held.peak


@pytest.mark.parametrize("work", [by_document, by_row, in_training])
def test_ten_times_as_much_to_evaluate_holds_no_more_tensors(model, stream_of, monkeypatch, work):
    monkeypatch.setattr(perplexity, "_TOKENS_PER_BATCH", 2 * CONTEXT)
    few, many = (bytes_held(work, model, stream_of(documents(number))) for number in (FEW, 10 * FEW))
    # The sums of each batch are kept, a few numbers of a few bytes; the logits of one batch are 10 kB.
    assert many <= few + 64 * 9 * FEW


def test_what_is_kept_of_every_batch_would_be_seen(model, stream_of):
    kept = []

    def keeps_logits(model, stream):
        objective = CausalObjective(stream, CONTEXT, END)
        kept.extend(model(objective.collate([row]).inputs).detach() for row in range(objective.num_rows))

    few, many = (bytes_held(keeps_logits, model, stream_of(documents(number))) for number in (FEW, 10 * FEW))
    assert many > few + 64 * 9 * FEW
