"""QLoRA beside transformers, peft and bitsandbytes: one step, and what weights take, on the shape of SmolLM2-135M.

Run: python benchmarks/quantised_step.py [--steps 4] [--tokens 256]. Each side is measured in a process of its own, on
one thread.
"""

import argparse
import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

SIDES = ("ours", "ours, dense", "transformers + peft + bitsandbytes")
SHAPE: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def ours(row: torch.Tensor, *, quantised: bool) -> tuple[Callable[[], None], dict[str, int]]:
    """A step of this project, and how many bytes weights take."""
    from preceptor.adapters.adapter_config import AdapterConfig
    from preceptor.adapters.attach import adapt
    from preceptor.adapters.quantised import quantise, weight_bytes
    from preceptor.models.decoder import build
    from preceptor.models.decoder_config import DecoderConfig
    from preceptor.nn.inputs import Inputs
    from preceptor.objectives.batch import Batch, LossSum
    from preceptor.objectives.causal import language_model_loss
    from preceptor.parallel.engine import place
    from preceptor.train.optim import Optimizer
    from preceptor.train.optim_config import OptimizerConfig

    class Causal:
        def loss(self, model: torch.nn.Module, batch: Batch) -> LossSum:
            return language_model_loss(model, batch)

    model = build(DecoderConfig(**SHAPE, qk_norm="none", zero_init_outputs=False))
    if quantised:
        quantise(model)
    linears = sum(weight_bytes(layer) for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    sizes = {"weight_bytes": weight_bytes(model), "linear_weight_bytes": linears}
    adapt(model, AdapterConfig(rank=8, alpha=16))
    engine = place(model)
    optimizer = Optimizer(engine.parameters, OptimizerConfig(kind="adamw", learning_rate=1e-4))
    batch = Batch(Inputs(row[:, :-1]), row[:, 1:])

    def step() -> None:
        engine.forward_backward(Causal(), [batch])
        optimizer.step(1.0)
        engine.clear_gradients()

    return step, sizes


def theirs(row: torch.Tensor) -> tuple[Callable[[], None], dict[str, int]]:
    """A step of transformers, peft and bitsandbytes."""
    peft: Any = importlib.import_module("peft")
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    quantisation = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    with tempfile.TemporaryDirectory() as folder:
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).save_pretrained(folder)
        base = transformers.LlamaForCausalLM.from_pretrained(
            folder, device_map="cpu", dtype=torch.float32, quantization_config=quantisation
        )
    base = peft.prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, lora)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0)

    def step() -> None:
        model(input_ids=row[:, :-1], labels=row[:, :-1]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, {}


def measure(side: str, steps: int, tokens: int) -> dict[str, Any]:
    """The processor's and the clock's seconds of the best step, and the most memory the process held."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    row = torch.randint(0, SHAPE["vocab_size"], (1, tokens + 1), generator=torch.Generator().manual_seed(0))
    step, sizes = theirs(row) if side == SIDES[2] else ours(row, quantised=side == SIDES[0])
    step()
    clock, processor = [], []
    for _ in range(steps):
        started, worked = time.perf_counter(), time.process_time()
        step()
        clock.append(time.perf_counter() - started)
        processor.append(time.process_time() - worked)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"side": side, "processor_s": min(processor), "clock_s": min(clock), "peak_bytes": most, **sizes}


def main() -> None:
    """Measure each side and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--side", choices=SIDES)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(measure(given.side, given.steps, given.tokens)))
        return
    for side in SIDES:
        arguments = ["--side", side, "--steps", str(given.steps), "--tokens", str(given.tokens)]
        result = subprocess.run(
            [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        )
        print(result.stdout.decode().strip().splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
