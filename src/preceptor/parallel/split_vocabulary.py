"""A vocabulary dealt over processes: rows that others hold are looked up there, tokens are scored by who holds them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from preceptor.core.dealing import even_part
from preceptor.models.language_model import LanguageModel
from preceptor.parallel.collectives import Circle, entered, joined, summed


@dataclass(frozen=True, slots=True)
class Share:
    """The tokens of a vocabulary that this process holds."""

    circle: Circle
    size: int

    @property
    def start(self) -> int:
        """The first token held here."""
        return even_part(self.size, self.circle.size, self.circle.place)[0]

    @property
    def length(self) -> int:
        """How many are held here."""
        return even_part(self.size, self.circle.size, self.circle.place)[1]

    @property
    def most(self) -> int:
        """The most that any process holds."""
        return even_part(self.size, self.circle.size, 0)[1]

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all processes."""
        return self.circle.summed(x)

    def highest(self, x: Tensor) -> Tensor:
        """The highest of all processes."""
        return self.circle.highest(x)

    def enter(self, hidden: Tensor) -> Tensor:
        """States that all score, whose gradient is the sum of what each finds."""
        return entered(hidden, self.circle)

    def gathered(self, logits: Tensor) -> Tensor:
        """The scores of the whole vocabulary."""
        rows = joined(logits.reshape(-1, self.length), self.circle, 1, self.size, sums=False)
        return rows.view(*logits.shape[:-1], self.size)

    def look_up(self, ids: Tensor, rows: Callable[[Tensor], Tensor]) -> Tensor:
        """The rows of all tokens, from whoever holds them; ``rows`` gives those held here."""
        places = ids - self.start
        own = (places >= 0) & (places < self.length)
        found = rows(places.where(own, 0))
        return summed(found.masked_fill(~own.unsqueeze(-1), 0.0), self.circle)

    def own(self, bias_V: Tensor) -> Tensor:
        """The part of a vector over the vocabulary that belongs to the tokens held here."""
        return self.circle.part(bias_V, 0)


def share_vocabulary(model: nn.Module, roles: Mapping[int, str], share: Share) -> None:
    """Make embeddings look up the rows that others hold too, and output layers score the tokens held here."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LanguageModel):
            module.vocabulary = share
        if isinstance(module, nn.Embedding) and roles.get(id(module.weight)) == "vocabulary":
            if hasattr(module, "vocabulary"):
                setattr(module, "vocabulary", share)  # noqa: B010
                continue
            # An adapted embedding has a table of changes beside that of its base, which is cut in the same way.
            outer = model.get_submodule(name.removesuffix(".base_layer"))
            outer.forward = partial(share.look_up, rows=outer.forward)
