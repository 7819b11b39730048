"""The model that a run starts from, taken into the run's folder with its tokenizer."""

from pathlib import Path
from typing import Any

import torch

from preceptor.core.artifact import Draft
from preceptor.core.config import encode
from preceptor.core.progress import say
from preceptor.models.foreign import NOT_PROVED, ForeignModel
from preceptor.models.growth import grow_vocabulary
from preceptor.models.interchange import architecture_of, save_model
from preceptor.recipes.model_lookup import find_model


def take(path: Path, draft: Draft, seed: int) -> None:
    """Write the model at a path, and its tokenizer, into the draft.

    Raises:
        ArtifactError: it cannot be read, or is of no architecture that is known.
    """
    model, tokenizer = find_model(path)
    new: list[list[int]] = [[] for _ in range(tokenizer.vocab_size - model.config.vocab_size)]
    if new:
        # A base without an end of text or a chat template is given ours, whose tokens it has no rows for yet.
        names = [token for token in tokenizer.special_tokens if tokenizer.special_id(token) >= model.config.vocab_size]
        say(
            f"base: {len(new)} tokens are new to the model, and start from its mean: {', '.join(names) or 'plain ones'}"
        )
        model = grow_vocabulary(model, new, torch.Generator().manual_seed(seed))
    save_model(model, draft.path, tokenizer.end_of_text_id)
    tokenizer.save(draft.path)
    facts: dict[str, Any] = {
        "model": encode(model.config),
        "architecture": architecture_of(model.config).class_name,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "new_tokens": len(new),
    }
    if isinstance(model, ForeignModel):
        facts |= {"not_proved": list(NOT_PROVED), "isolates_documents": model.isolates_documents}
    draft.facts |= facts
    # Where it lay is no part of what it is.
    draft.notes["source"] = str(path)
