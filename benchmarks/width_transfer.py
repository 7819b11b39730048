"""The best learning rate of a narrow and of a wide model, with and without muP, on text made here.

A text follows one of several tables of which token may come after which, so that a model learns both the tables and to
tell from what it has read which of them holds. Every model is trained at every rate of a grid, constant from a short
warm-up on, and judged by its mean loss over the last quarter of its steps. Prints a table of these losses and the best
rate of each width; with muP it should be the same one.

    python benchmarks/width_transfer.py [--widths 64 256] [--steps 120] [--seeds 1]
"""

import argparse
import time

import torch
from torch import Tensor

from preceptor.models.decoder import Decoder, build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.initialisation import learning_rate_scales
from preceptor.nn.inputs import Inputs
from preceptor.train.optim import Optimizer
from preceptor.train.optim_config import OptimizerConfig

VOCABULARY, SUCCESSORS, TABLES, ROWS, CONTEXT, LAYERS, HEAD = 64, 4, 4, 16, 32, 2, 16
WARMUP_STEPS = 5


def texts(seed: int, steps: int) -> Tensor:
    """Rows of tokens for each step, one longer than the context."""
    generator = torch.Generator().manual_seed(0)
    successors = torch.randint(0, VOCABULARY, (TABLES, VOCABULARY, SUCCESSORS), generator=generator)
    generator = torch.Generator().manual_seed(seed + 1)
    rows = steps * ROWS
    which = torch.randint(0, TABLES, (rows,), generator=generator)
    tokens = torch.randint(0, VOCABULARY, (rows, CONTEXT + 1), generator=generator)
    for place in range(1, CONTEXT + 1):
        choice = torch.randint(0, SUCCESSORS, (rows,), generator=generator)
        tokens[:, place] = successors[which, tokens[:, place - 1], choice]
    return tokens.view(steps, ROWS, CONTEXT + 1)


def model_of(width: int, base: int, mup: bool, seed: int) -> Decoder:
    """A model of some width; at the base width both ways are the same model."""
    config = DecoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // HEAD,
        num_key_value_heads=width // HEAD,
        head_dim=HEAD,
        max_position_embeddings=CONTEXT,
        gated=False,
        qk_norm="none",
        zero_init_outputs=False,
        # Without muP too the size of what a layer makes starts the same at every width; the rates are left alone.
        initializer_range=(base if mup else width) ** -0.5,
        width_base=base if mup else 0,
    )
    return build(config, torch.Generator().manual_seed(seed))


def final_loss(model: Decoder, rate: float, data: Tensor) -> float:
    """The mean loss over the last quarter of the steps."""
    parameters = dict(model.named_parameters())
    config = OptimizerConfig(kind="adamw", learning_rate=rate, weight_decay=0.0)
    optimizer = Optimizer(parameters, config, learning_rate_scales(model))
    losses = []
    for step, rows in enumerate(data):
        loss, _, count = model.loss_sum(Inputs(rows[:, :-1]), rows[:, 1:])
        (loss / count).backward()  # type: ignore[no-untyped-call]
        optimizer.step(min(1.0, (step + 1) / WARMUP_STEPS))
        for parameter in parameters.values():
            parameter.grad = None
        losses.append(loss.item() / count)
    last = losses[-max(1, len(losses) // 4) :]
    return sum(last) / len(last)


def main() -> None:
    """Train every model at every rate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256], help="the first is the base")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--exponents", type=int, nargs=2, default=(-10, -5), help="rates from 2^first to 2^last")
    arguments = parser.parse_args()
    started, base = time.perf_counter(), arguments.widths[0]
    exponents = range(arguments.exponents[0], arguments.exponents[1] + 1)
    print(f"{'':22s}" + "".join(f"{'2^' + str(exponent):>8s}" for exponent in exponents) + f"{'best':>8s}")
    data = [texts(seed, arguments.steps) for seed in range(arguments.seeds)]
    for mup in (True, False):
        # At the base width both ways are one.
        for width in arguments.widths if mup else arguments.widths[1:]:
            means = []
            for exponent in exponents:
                runs = (final_loss(model_of(width, base, mup, s), 2.0**exponent, rows) for s, rows in enumerate(data))
                means.append(sum(runs) / len(data))
            best = exponents[means.index(min(means))]
            row = "".join(f"{mean:8.3f}" for mean in means)
            print(f"{'muP' if mup else 'standard':10s}width {width:4d}  {row}{'2^' + str(best):>8s}", flush=True)
    print(f"{time.perf_counter() - started:.0f} seconds")


if __name__ == "__main__":
    main()
