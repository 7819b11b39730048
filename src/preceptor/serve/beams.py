"""Beam search: the likeliest targets, where several beginnings are followed at once."""

import torch
from torch import Tensor

from preceptor.serve.sampling import SamplingConfig

_NEVER = -1e9


class Beams:
    """The beginnings that are followed for each of a batch of sources, and the targets that have ended.

    A target's score is its log-probability over a power of its length, the end of text included. A source is done when
    it has as many ended targets as beams, and no beginning, divided by the same power of its own length, is better
    than the worst of them.

    Source: Wu et al. 2016, section 7, in the form that transformers made common.
    """

    def __init__(self, count: int, config: SamplingConfig, max_tokens: int, end_of_text_id: int, device: torch.device):
        self._config, self._max_tokens, self._end = config, max_tokens, end_of_text_id
        # All beams start alike, so that only one of them may go on at first.
        self._scores_BK = torch.full((count, config.beams), _NEVER, device=device)
        self._scores_BK[:, 0] = 0.0
        self._tokens_BKT = torch.empty((count, config.beams, 0), dtype=torch.int64, device=device)
        self._ended: list[list[tuple[float, list[int]]]] = [[] for _ in range(count)]
        self._done = [False] * count

    def extend(self, logits_RV: Tensor) -> tuple[Tensor, Tensor] | None:
        """For each beam of the next step the row that it goes on from, and its token; None once all is done.

        Rows are beams of the first source, then of the second, ...: R = B K.
        """
        count, width = self._scores_BK.shape
        logits_BKV = logits_RV.float().log_softmax(dim=-1).view(count, width, -1)
        num_tokens = logits_BKV.shape[-1]
        # Half of so many may end, and enough are left to go on.
        candidates_BC, places_BC = (self._scores_BK.unsqueeze(2) + logits_BKV).flatten(1).topk(2 * width)
        beams_BC, tokens_BC = places_BC // num_tokens, places_BC % num_tokens
        length = self._tokens_BKT.shape[2] + 1
        self._end_some(candidates_BC, beams_BC, tokens_BC, length)
        if length == self._max_tokens:
            return None
        goes_on_BC = candidates_BC.masked_fill(tokens_BC == self._end, _NEVER * 10)
        self._scores_BK, kept_BK = goes_on_BC.topk(width)
        beams_BK, tokens_BK = beams_BC.gather(1, kept_BK), tokens_BC.gather(1, kept_BK)
        before_BKT = self._tokens_BKT.gather(1, beams_BK.unsqueeze(2).expand_as(self._tokens_BKT))
        self._tokens_BKT = torch.cat((before_BKT, tokens_BK.unsqueeze(2)), dim=2)
        reachable = (self._scores_BK[:, 0] / length**self._config.length_penalty).tolist()
        for row, ended in enumerate(self._ended):
            self._done[row] |= len(ended) == width and reachable[row] <= ended[-1][0]
        if all(self._done):
            return None
        rows_BK = beams_BK + torch.arange(0, count * width, width, device=beams_BK.device).unsqueeze(1)
        return rows_BK.flatten(), tokens_BK.flatten()

    def _end_some(self, candidates_BC: Tensor, beams_BC: Tensor, tokens_BC: Tensor, length: int) -> None:
        """Keep the best of the targets that end here: with the end of text, or because none may be longer."""
        width = self._config.beams
        ends_BC = (tokens_BC == self._end) | (length == self._max_tokens)
        for row, column in ends_BC[:, :width].nonzero().tolist():
            if self._done[row]:
                continue
            token = int(tokens_BC[row, column])
            ids = self._tokens_BKT[row, int(beams_BC[row, column])].tolist()
            score = float(candidates_BC[row, column]) / length**self._config.length_penalty
            self._ended[row].append((score, ids if token == self._end else [*ids, token]))
            self._ended[row].sort(key=lambda each: -each[0])
            del self._ended[row][width:]

    def best(self) -> list[list[int]]:
        """The best target of each source, without the end of text."""
        return [ended[0][1] for ended in self._ended]
