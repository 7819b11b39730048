"""What a training step computes, counted from the model that is trained."""

from dataclasses import dataclass

from preceptor.models.describe import attentions, multiplied_layers, output_matrix
from preceptor.models.language_model import LanguageModel
from preceptor.nn.relative import RelativeAttention

_LEARNED, _FROZEN, _ATTENTION = 6, 4, 12
"""Operations for a weight and a token: 2 forward, 2 for the gradient of the states, 2 for that of the weight."""


@dataclass(frozen=True, slots=True)
class StepFlops:
    """Floating-point operations of a training step, forward and backward; a multiplication and an addition are two."""

    of_a_row: int
    """Of each row that is read."""
    of_a_supervised_token: int
    """Of the output layer, which scores supervised tokens alone."""

    def step(self, rows: int, supervised_tokens: int) -> int:
        """Those of a step over so many rows."""
        return rows * self.of_a_row + supervised_tokens * self.of_a_supervised_token


def step_flops(model: LanguageModel, row_tokens: int, source_tokens: int = 0) -> StepFlops:
    """The operations of a step over rows of so many tokens, and of so many that an encoder-decoder's encoder reads.

    What is masked is computed all the same, padding too; look-ups, norms, activations and what is computed a second
    time to save memory are left out, as is customary.

    Source: Chowdhery et al. 2022, PaLM, appendix B: 6 for each weight and token, and 12 times layers, heads, their size
    and the context. A weight that is frozen needs no gradient of its own, which leaves 4.
    """

    def read_by(name: str) -> int:
        is_source = name.startswith("encoder.") or ".encoder_attn.k_proj" in name or ".encoder_attn.v_proj" in name
        return source_tokens if source_tokens and is_source else row_tokens

    operations = 0
    for name, layer in multiplied_layers(model):
        weight = layer.weight
        operations += (_LEARNED if weight.requires_grad else _FROZEN) * weight.numel() * read_by(name)
    for name, parameter in model.named_parameters():
        if name.endswith((".lora_A", ".lora_B")):
            operations += _LEARNED * parameter.numel() * read_by(name)
    names = {id(module): name for name, module in model.named_modules()}
    for heads, size, module in attentions(model):
        name = names[id(module)]
        queries = read_by(name)
        keys = source_tokens if source_tokens and name.endswith("encoder_attn") else queries
        operations += _ATTENTION * queries * keys * heads * size
        if isinstance(module, RelativeAttention):
            distances = 2 * row_tokens - 1
            operations += _LEARNED * distances * (queries * heads * size + module.r_proj.weight.numel())
    output = output_matrix(model)
    scored = 0 if output is None else (_LEARNED if output.requires_grad else _FROZEN) * output.numel()
    return StepFlops(operations, scored)
