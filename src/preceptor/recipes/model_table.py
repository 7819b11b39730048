"""A description of a model and its norms, as tables for people."""

import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from preceptor.core.units import human_bytes, human_count
from preceptor.evaluate.inspection import Norms
from preceptor.models.describe import Description


def print_description(described: Description, title: str) -> None:
    """Print the tensors of a model, repeated blocks folded into one, and its totals."""
    console = Console(highlight=False)
    console.print(escape(f"{title}: {described.family}, {described.model_type}"))
    table = Table(box=None, pad_edge=False)
    table.add_column("tensor", overflow="fold")
    for name in ("shape", "each", "times", "parameters"):
        table.add_column(name, justify="right")
    for group in described.tensors:
        shape = " x ".join(map(str, group.shape))
        each = human_count(group.parameters // group.count)
        times = f"x {group.count}" if group.count > 1 else ""
        table.add_row(escape(group.name), shape, each, times, human_count(group.parameters))
    console.print(table)
    console.print()
    totals = Table(box=None, show_header=False, pad_edge=False)
    for name, value, remark in _totals(described):
        totals.add_row(name, value, escape(remark))
    console.print(totals)


def _totals(described: Description) -> list[tuple[str, str, str]]:
    flops, memory = described.flops_per_token, described.memory
    context = f"{described.context_length:,}"
    rows = [
        ("parameters", f"{described.parameters:,}", "weights used twice count once"),
        ("  without embeddings", f"{described.parameters_without_embeddings:,}", "nor the output layer's matrix"),
        ("  trainable", f"{described.trainable_parameters:,}", ""),
        ("context", context, "tokens; attention is counted at this length"),
        ("FLOPs forward", human_count(flops.forward), f"for {described.token}"),
        ("  with weights", human_count(flops.weights), "2 for each weight that a token meets"),
        ("  in attention", human_count(flops.attention), f"to each of {context} keys"),
        ("FLOPs with backward", human_count(flops.forward_and_backward), "3 times forward"),
        ("weights", human_bytes(memory.weights_float32), f"float32; bfloat16 {human_bytes(memory.weights_bfloat16)}"),
        ("gradients", human_bytes(memory.gradients), "float32"),
        ("AdamW", human_bytes(memory.adamw), "its state, float32"),
        ("Muon", human_bytes(memory.muon), "its state, with AdamW's for what is no hidden matrix"),
        (
            "activations",
            human_bytes(memory.activations_per_token_float32),
            f"a token, roughly, float32; bfloat16 {human_bytes(memory.activations_per_token_bfloat16)}",
        ),
    ]
    if memory.cache_per_token_float32:
        for name, wide, narrow in (
            ("cache", memory.cache_per_token_float32, memory.cache_per_token_bfloat16),
            ("cache when full", memory.cache_full_context_float32, memory.cache_full_context_bfloat16),
        ):
            of = described.token if name == "cache" else f"{context} tokens"
            rows.append((name, human_bytes(wide), f"{of}, float32; bfloat16 {human_bytes(narrow)}"))
    return rows


def print_norms(found: Norms) -> None:
    """Print the norms part by part, and what they mean."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("part", overflow="fold")
    for name in ("activation", "gradient", "weight"):
        table.add_column(name, justify="right")
    for layer in found.layers:
        table.add_row(escape(layer.name), *(f"{v:.3g}" for v in (layer.activation, layer.gradient, layer.weight)))
    console.print(table)
    console.print(f"loss {found.loss:.3f} nats per token; asked: {found.asked}")
    for line in found.findings():
        console.print(escape(line))


def norms_json(found: Norms) -> dict[str, Any]:
    """The norms and findings as JSON; a norm that is no finite number is null."""
    layers = [
        {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in asdict(layer).items()}
        for layer in found.layers
    ]
    loss = found.loss if math.isfinite(found.loss) else None
    return {"loss": loss, "asked": found.asked, "layers": layers, "findings": found.findings()}
