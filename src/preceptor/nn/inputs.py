"""What a model reads: tokens, where they stand, and which of them belong together."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor


class Inputs(NamedTuple):
    """The inputs of one forward pass, the same for every family; what a family does not know it does not look at."""

    tokens_BT: Tensor
    positions_BT: Tensor | None = None
    """Where a token stands in its document; 0, 1, 2, ... along the row when left out."""
    segments_BT: Tensor | None = None
    """The number of the document a token belongs to: tokens of different documents do not see each other. Below zero
    is padding. Left out, a row is one document."""
    token_types_BT: Tensor | None = None
    """Which text of a pair a token belongs to (0 or 1); all 0 when left out."""
    prefix_BT: Tensor | None = None
    """Whether a token is of the part that every token of its document sees, however the others are ordered."""
    order_BT: Tensor | None = None
    """The place of a token in the order in which the tokens of its document are predicted (two-stream attention)."""
    before: Optional["Inputs"] = None
    """What stands before the row, directly before its first token, and is only remembered: no gradient flows through it
    (two-stream models). Its segments say of which document of the row it is."""
    source: Optional["Inputs"] = None
    """What the encoder of an encoder-decoder reads; document n of the target sees document n of the source."""

    def places(self, first: int = 0) -> Tensor:
        """The positions of the tokens, of shape B T; ``first`` is that of the first token of a document."""
        if self.positions_BT is None:
            places_T = torch.arange(first, first + self.tokens_BT.shape[1], device=self.tokens_BT.device)
            return places_T.expand_as(self.tokens_BT)
        return self.positions_BT + first if first else self.positions_BT
