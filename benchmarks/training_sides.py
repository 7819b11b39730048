"""The sides of benchmarks/training_step.py: each trains the same shape in a process of its own.

All are in float32, with AdamW, no dropout, gradients clipped to a norm of 1 and the output layer tied to the embedding.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

VOCABULARY, WIDTH, LAYERS, HEADS, CONTEXT = 8192, 384, 6, 6, 256
INSIDE = {"gpt2": 4 * WIDTH, "llama": 1024}
"""Width inside the feed-forward layers of each shape."""
WARMUP_STEPS = 3
RATE = 3e-4


@dataclass(frozen=True)
class Load:
    """What is trained: a shape, so many steps after the warm-up, each of so many rows of CONTEXT tokens."""

    shape: str
    steps: int
    rows: int

    @property
    def all_steps(self) -> int:
        """The steps, those of the warm-up included."""
        return self.steps + WARMUP_STEPS


@dataclass(frozen=True)
class Timed:
    """The clock at the end of each step, and what was trained."""

    marks: list[float]
    num_parameters: int
    loss: float
    """The mean loss in nats of the last step."""


def ours(load: Load, compile_layers: str) -> Timed:
    """Our loop as a run has it, hooks and checkpoints apart."""
    import numpy as np
    import torch

    from preceptor.core.interrupt import Stop
    from preceptor.models.decoder import build
    from preceptor.objectives.batch import Batch, Batches, LossSum
    from preceptor.objectives.packing import collate_rows, plan_rows
    from preceptor.train.allocator import keep_freed_memory
    from preceptor.train.length import Length
    from preceptor.train.loop import fit
    from preceptor.train.optim import Optimizer
    from preceptor.train.optim_config import OptimizerConfig
    from preceptor.train.placement import prepared
    from preceptor.train.run import TrainingConfig
    from preceptor.train.state import TrainState, Validation

    total, rows_per_step = load.all_steps, load.rows

    class RandomTokens:
        """As many documents of one row each as a step has rows, times the number of steps."""

        def __init__(self) -> None:
            generator = np.random.default_rng(0)
            self.tokens = generator.integers(0, VOCABULARY, total * rows_per_step * CONTEXT, dtype=np.uint32)
            self.plan = plan_rows(np.arange(0, self.tokens.size + 1, CONTEXT), CONTEXT)
            self.num_rows = self.plan.num_rows

        def collate(self, rows: Any, samples: Any = None) -> Batch:
            return collate_rows(self.plan, rows, self.tokens, 0)

        def loss(self, model: Any, batch: Batch) -> LossSum:
            return LossSum(*model.loss_sum(batch.inputs, batch.labels_BT))

    keep_freed_memory()
    config = TrainingConfig(
        context_length=CONTEXT,
        batch_tokens=rows_per_step * CONTEXT,
        micro_batch_tokens=rows_per_step * CONTEXT,
        device="cpu",
        compile="on" if compile_layers == "on" else "off",
        optimizer=OptimizerConfig(kind="adamw", learning_rate=RATE),
        validation_every_steps=total + 1,
        checkpoint_every_steps=total + 1,
    )
    model = build(_our_config(load.shape), torch.Generator().manual_seed(0))
    engine = prepared(model, config, total)
    state, marks = TrainState(), []
    fit(
        config,
        engine,
        Optimizer(engine.parameters, config.optimizer),
        Batches(RandomTokens(), 0, rows_per_step, rows_per_step),
        state,
        length=Length.of_steps(total),
        validate=lambda: Validation(0.0, 0.0),
        save=lambda state: None,
        # The clock is read after a step; the validation that ends the run takes no time here.
        hooks=[lambda record, seconds: marks.append(time.perf_counter())],
        stop=Stop(),
    )
    return Timed(marks, _count(model), float(state.curve[-1]["loss"]))


def _our_config(shape: str) -> Any:
    from preceptor.models.decoder_config import DecoderConfig

    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INSIDE[shape],
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": WIDTH // HEADS,
        "max_position_embeddings": CONTEXT,
        "qk_norm": "none",
        "zero_init_outputs": False,
        "norm_eps": 1e-5,
    }
    if shape == "gpt2":
        sizes |= {"norm": "layernorm", "positions": "learned", "gated": False, "hidden_act": "gelu_new"}
        sizes |= {"attention_bias": "all", "mlp_bias": True}
    return DecoderConfig(**sizes)


def trainer(load: Load) -> Timed:
    """The Trainer of transformers with torch_compile."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Marks(TrainerCallback):
        """Notes the clock at the end of every step."""

        def __init__(self) -> None:
            self.marks: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.marks.append(time.perf_counter())

    model = _transformers_model(load.shape)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (load.all_steps * load.rows, CONTEXT), generator=generator)
    data = [{"input_ids": row, "labels": row} for row in ids]
    marks = Marks()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=load.rows,
            max_steps=load.all_steps,
            learning_rate=RATE,
            max_grad_norm=1.0,
            torch_compile=True,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        result = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[marks]).train()
    return Timed(marks.marks, _count(model), float(result.training_loss))


def _transformers_model(shape: str) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    if shape == "gpt2":
        sizes = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
        dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2LMHeadModel(GPT2Config.from_dict(sizes | dropouts))
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INSIDE[shape],
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def litgpt(load: Load) -> Timed:
    """The model and the loss of Lightning's litgpt in the loop of its pre-training: the model compiled, the loss not.

    It has no learned positions; its GPT-2 shape turns a quarter of each head, as Pythia does.
    """
    import torch
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    like: dict[str, Any] = {"norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP", "bias": False}
    like["rotary_percentage"] = 1.0
    if load.shape == "gpt2":
        like = {"norm_class_name": "LayerNorm", "mlp_class_name": "GptNeoxMLP", "gelu_approximate": "tanh"}
        like |= {"bias": True, "attn_bias": True, "rotary_percentage": 0.25}
    config = Config(
        block_size=CONTEXT,
        n_layer=LAYERS,
        n_embd=WIDTH,
        n_head=HEADS,
        vocab_size=VOCABULARY,
        padded_vocab_size=VOCABULARY,
        intermediate_size=INSIDE[load.shape],
        parallel_residual=False,
        **like,
    )
    model = GPT(config)
    model.apply(model._init_weights)
    model.transformer.wte.weight = model.lm_head.weight
    compiled: Any = torch.compile(model)
    return _loop(model, lambda tokens, targets: chunked_cross_entropy(compiled(tokens), targets), load)


def plain(load: Load) -> Timed:
    """A plain PyTorch loop, its model compiled whole."""
    import torch

    from plain_models import PlainModel

    model = PlainModel(
        shape=load.shape,
        vocabulary=VOCABULARY,
        width=WIDTH,
        inside=INSIDE[load.shape],
        layers=LAYERS,
        heads=HEADS,
        context=CONTEXT,
    )
    return _loop(model, torch.compile(model), load)


def _loop(model: Any, loss_of: Callable[[Any, Any], Any], load: Load) -> Timed:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (load.all_steps, load.rows, CONTEXT + 1), generator=generator)
    marks = []
    for rows in ids:
        loss = loss_of(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        last = loss.item()
        marks.append(time.perf_counter())
    return Timed(marks, _count(model), last)


def products(load: Load) -> Timed:
    """Nothing but the matrix products of our step."""
    from matrix_products import step_of_products

    step = step_of_products(
        gated=load.shape == "llama",
        vocabulary=VOCABULARY,
        width=WIDTH,
        inside=INSIDE[load.shape],
        layers=LAYERS,
        heads=HEADS,
        rows=load.rows,
        context=CONTEXT,
    )
    marks = []
    for _ in range(load.all_steps):
        step()
        marks.append(time.perf_counter())
    return Timed(marks, 0, 0.0)


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


SIDES: dict[str, Callable[[Load], Timed]] = {
    "ours": lambda load: ours(load, "off"),
    "ours-compiled": lambda load: ours(load, "on"),
    "trainer": trainer,
    "litgpt": litgpt,
    "plain": plain,
    "products": products,
}
"""Each side by its name: given what is trained, what came of it."""
