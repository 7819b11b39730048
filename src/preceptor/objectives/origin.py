"""Where rows come from: the documents or examples whose tokens stand in them."""

from collections.abc import Sequence

import numpy as np

from preceptor.objectives.batch import Objective
from preceptor.objectives.packing import PackingPlan
from preceptor.tokenizer.stream import TokenStream


def documents_of(objective: Objective, rows: Sequence[int]) -> list[str]:
    """The names of the documents in these rows, each once, in their order; the numbers of rows where none are known."""
    inner = getattr(objective, "packed", objective)
    plan, stream = getattr(inner, "plan", None), getattr(inner, "stream", None)
    if not isinstance(plan, PackingPlan):
        return [f"row {row}" for row in rows]
    pieces = [piece for row in rows for piece in plan.row(row)]
    if not isinstance(stream, TokenStream):
        # Examples are packed whole, so that pieces are numbered as they are.
        return [f"example {piece}" for piece in dict.fromkeys(pieces)]
    numbers = np.searchsorted(stream.offsets, plan.starts[pieces], "right") - 1
    return [_name(stream, number) for number in dict.fromkeys(numbers.tolist())]


def _name(stream: TokenStream, number: int) -> str:
    if number >= len(stream.document_ids):
        return f"document {number}"
    return bytes(stream.document_ids[number]).decode("ascii", "replace")
