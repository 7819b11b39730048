"""Tokens per second of a training step of our families, against transformers' models of the same shape.

Both sides are compiled with torch.compile and train on the same random tokens: forward, backward and fused AdamW, in
float32, without dropout or packing, with the loss as users have it (ours never holds all logits). The sides take turns
within one process; the table has medians over all timed steps and their ratio, by the clock and by the seconds that
processors spent on the process, which other processes on a busy machine hardly change.

    python benchmarks/models.py [--families gpt2 llama] [--rounds 3] [--steps 4] [--layers 4] [--quick] [--eager]
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from preceptor.train.allocator import keep_freed_memory

IGNORED = -100
_SDPA: Mapping[str, Any] = {"attn_implementation": "sdpa"}


class Size(NamedTuple):
    """The shape that all families share."""

    vocabulary: int = 8192
    width: int = 384
    layers: int = 4
    heads: int = 6
    context: int = 256
    rows: int = 8


Step = Callable[[], Tensor]
"""The mean loss of a batch, ready for ``backward``."""


class Side(NamedTuple):
    """A model and its loss."""

    model: nn.Module
    loss: Step


class Batch(NamedTuple):
    """Tokens, and what is to be said at each place."""

    tokens_BT: Tensor
    labels_BT: Tensor


def _batch(size: Size, supervised: float) -> Batch:
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(0, size.vocabulary, (size.rows, size.context), generator=generator)
    chosen_BT = torch.rand(tokens_BT.shape, generator=generator) < supervised
    return Batch(tokens_BT, tokens_BT.masked_fill(~chosen_BT, IGNORED))


def _shifted(labels_BT: Tensor) -> Tensor:
    """The token after each place."""
    return torch.cat((labels_BT[:, 1:], torch.full_like(labels_BT[:, :1], IGNORED)), dim=1)


def _ours(model: nn.Module, labels_BT: Tensor, **inputs: Any) -> Side:
    from preceptor.nn.inputs import Inputs

    def loss() -> Tensor:
        total, _, count = model.loss_sum(Inputs(**inputs), labels_BT)  # type: ignore[operator]
        return total / count  # type: ignore[no-any-return]

    return Side(model, loss)


def _theirs(model: nn.Module, **inputs: Tensor) -> Side:
    return Side(model, lambda: model(**inputs).loss)


def gpt2(size: Size) -> tuple[Side, Side]:
    """GPT-2: ours, theirs."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from preceptor.models.decoder import build
    from preceptor.models.decoder_config import DecoderConfig

    config = DecoderConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        head_dim=size.width // size.heads,
        max_position_embeddings=size.context,
        norm="layernorm",
        positions="learned",
        gated=False,
        hidden_act="gelu_new",
        qk_norm="none",
        attention_bias="all",
        mlp_bias=True,
        zero_init_outputs=False,
        norm_eps=1e-5,
    )
    their_config = GPT2Config(
        vocab_size=size.vocabulary,
        n_positions=size.context,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        **_SDPA,
    )
    tokens_BT, labels_BT = _batch(size, 1.0)
    ours = _ours(build(config), _shifted(labels_BT), tokens_BT=tokens_BT)
    return ours, _theirs(GPT2LMHeadModel(their_config), input_ids=tokens_BT, labels=labels_BT)


def llama(size: Size) -> tuple[Side, Side]:
    """Llama with grouped queries: ours, theirs."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from preceptor.models.decoder import build
    from preceptor.models.decoder_config import DecoderConfig

    shape: Mapping[str, Any] = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "intermediate_size": 8 * size.width // 3,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads // 2,
        "head_dim": size.width // size.heads,
        "max_position_embeddings": size.context,
        "tie_word_embeddings": False,
    }
    tokens_BT, labels_BT = _batch(size, 1.0)
    model = build(DecoderConfig(**shape, qk_norm="none", zero_init_outputs=False))
    theirs = LlamaForCausalLM(LlamaConfig(**shape, use_cache=False, **_SDPA))
    ours = _ours(model, _shifted(labels_BT), tokens_BT=tokens_BT)
    return ours, _theirs(theirs, input_ids=tokens_BT, labels=labels_BT)


def bert(size: Size) -> tuple[Side, Side]:
    """BERT with a seventh of the tokens to be guessed: ours, theirs."""
    from transformers import BertConfig, BertForMaskedLM

    from preceptor.models.encoder import build
    from preceptor.models.encoder_config import EncoderConfig

    shape: Mapping[str, Any] = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "intermediate_size": 4 * size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "max_position_embeddings": size.context,
        "type_vocab_size": 2,
    }
    config = EncoderConfig(
        **shape,
        positions="learned",
        norm_placement="after",
        norm_bias=True,
        norm_eps=1e-12,
        gated=False,
        attention_bias=True,
        mlp_bias=True,
        lm_head_bias=True,
    )
    their_config = BertConfig(**shape, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **_SDPA)
    tokens_BT, labels_BT = _batch(size, 0.15)
    ours = _ours(build(config), labels_BT, tokens_BT=tokens_BT)
    return ours, _theirs(BertForMaskedLM(their_config), input_ids=tokens_BT, labels=labels_BT)


def t5(size: Size) -> tuple[Side, Side]:
    """T5, as many tokens on each side: ours by way of a file, theirs."""
    import tempfile
    from pathlib import Path

    from transformers import T5Config, T5ForConditionalGeneration

    from preceptor.models.interchange import load_model

    # Layers stand in both stacks.
    more: Mapping[str, Any] = {"decoder_start_token_id": 0, "use_cache": False}
    config = T5Config(
        vocab_size=size.vocabulary,
        d_model=size.width,
        d_ff=4 * size.width,
        d_kv=size.width // size.heads,
        num_layers=size.layers // 2,
        num_heads=size.heads,
        dropout_rate=0.0,
        **more,
    )
    theirs = T5ForConditionalGeneration(config)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        model = load_model(Path(folder))
    tokens_BT, labels_BT = _batch(size, 1.0)
    read_BT = torch.cat((torch.zeros_like(labels_BT[:, :1]), labels_BT[:, :-1]), dim=1)
    from preceptor.nn.inputs import Inputs

    ours = _ours(model, labels_BT, tokens_BT=read_BT, source=Inputs(tokens_BT))
    return ours, _theirs(theirs, input_ids=tokens_BT, labels=labels_BT)


def xlnet(size: Size) -> tuple[Side, Side]:
    """XLNet's content stream over all tokens: ours, theirs."""
    from transformers import XLNetConfig, XLNetLMHeadModel

    from preceptor.models.two_stream import build
    from preceptor.models.two_stream_config import TwoStreamConfig

    config = TwoStreamConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
    )
    their_config = XLNetConfig(
        vocab_size=size.vocabulary,
        d_model=size.width,
        d_inner=4 * size.width,
        n_layer=size.layers,
        n_head=size.heads,
        dropout=0.0,
        summary_last_dropout=0.0,
        use_mems_eval=False,
        use_mems_train=False,
    )
    tokens_BT, labels_BT = _batch(size, 1.0)
    ours = _ours(build(config), labels_BT, tokens_BT=tokens_BT)
    return ours, _theirs(XLNetLMHeadModel(their_config), input_ids=tokens_BT, labels=labels_BT)


FAMILIES = {"gpt2": gpt2, "llama": llama, "bert": bert, "t5": t5, "xlnet": xlnet}


class Timed:
    """A side that trains, one step a call."""

    def __init__(self, side: Side, compiled: bool) -> None:
        self.model = side.model.train()
        # The whole step is compiled, the model in place of its module, as Trainer does: the loss is within.
        self.loss: Step = torch.compile(side.loss) if compiled else side.loss
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def step(self) -> tuple[float, float]:
        """The seconds that a step took, by the clock and of processors."""
        started = time.perf_counter(), time.process_time()
        self.loss().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - started[0], time.process_time() - started[1]


def compare(name: str, size: Size, rounds: int, steps: int, compiled: bool) -> None:
    """Print the row of a family."""
    # Graphs of the families before are of no use, and count towards a limit.
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sides = [Timed(side, compiled) for side in FAMILIES[name](size)]
        counts = [sum(p.numel() for p in side.model.parameters()) / 1e6 for side in sides]
        for side in sides:
            first, second = side.step()[0], side.step()[0]
            print(f"{name}: first steps {first:.1f} and {second:.1f} s", file=sys.stderr, flush=True)
        seconds: list[list[tuple[float, float]]] = [[], []]
        for _ in range(rounds):
            for side, times in zip(sides, seconds, strict=True):
                side.step()
                times.extend(side.step() for _ in range(steps))
    tokens = size.rows * size.context
    (ours, our_work), (theirs, their_work) = (
        [statistics.median(kind) for kind in zip(*times, strict=True)] for times in seconds
    )
    shape = "/".join(f"{count:.1f}" for count in counts)
    row = f"{name:8s}{shape:>12s}{tokens / ours:14,.0f}{tokens / theirs:16,.0f}{theirs / ours:8.2f}"
    print(f"{row}{their_work / our_work:12.2f}", flush=True)


def main() -> None:
    """Compare each family in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=tuple(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--rounds", type=int, default=3, help="times each side has its turn")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of each turn")
    parser.add_argument("--layers", type=int, default=4, help="more take longer to compile")
    parser.add_argument("--quick", action="store_true", help="a small shape, to see that all runs")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    arguments = parser.parse_args()
    size = Size(vocabulary=512, width=64, layers=2, heads=2, context=64, rows=2) if arguments.quick else None
    size = size or Size(layers=arguments.layers)
    # Ours trains so; both sides have it here.
    keep_freed_memory()
    print(
        f"{'':8s}{'M weights':>12s}{'ours, tok/s':>14s}{'theirs, tok/s':>16s}{'ratio':>8s}{'of work':>12s}", flush=True
    )
    for name in arguments.families:
        try:
            compare(name, size, arguments.rounds, arguments.steps, not arguments.eager)
        except ImportError as error:
            print(f"{name:8s}skipped: {error}", flush=True)


if __name__ == "__main__":
    main()
