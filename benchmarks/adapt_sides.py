"""The peers of benchmarks/adapt_encoder.py and benchmarks/adapt_decoder.py: transformers, peft, bitsandbytes, TRL.

Each side is run in a process of its own, so that its peak of memory is its own: ``measured`` starts it, and the process
itself prints what ``say`` is given.
"""

import csv
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ENCODER_RATES = {"full": 5e-5, "lora": 1e-3, "prefix": 1e-2, "prompt": 1e-2}
"""Learning rates for both sides, by what is trained."""
VIRTUAL_TOKENS = 20
RANK, ALPHA = 16, 32
EXAMPLES_A_STEP, NUM_EXAMPLES = 8, 4000


def measured(script: str, **options: object) -> dict[str, Any]:
    """The figures of a side, from a process of its own that runs a script with these options."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip() or f"ended with {done.returncode}").splitlines()[-1][:160]}
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def say(figures: Mapping[str, Any]) -> None:
    """Print the figures of this process, with its largest resident set, for ``measured`` to read."""
    print(json.dumps({**figures, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}))


def sentences(path: Path) -> list[tuple[str, str]]:
    """Text and label of each row of a TSV file with these columns."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def _parameters(model: Any) -> tuple[int, int]:
    sizes = [(each.numel(), each.requires_grad) for each in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def _adapted(model: Any, method: str) -> Any:
    import peft

    if method == "full":
        return model
    kinds: dict[str, Any] = {
        "lora": lambda: peft.LoraConfig(
            task_type="SEQ_CLS",
            r=RANK,
            lora_alpha=ALPHA,
            target_modules=["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"],
        ),
        "prefix": lambda: peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=VIRTUAL_TOKENS),
        "prompt": lambda: peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=VIRTUAL_TOKENS),
    }
    return peft.get_peft_model(model, kinds[method]())


def classify(base: Path, data: Path, method: str, epochs: int, batch_size: int) -> dict[str, Any]:
    """Sentences classified by peft and transformers' Trainer: accuracy, seconds of training, parameters."""
    import tempfile

    import numpy as np
    import transformers

    from preceptor.footprint.meter import FootprintConfig, measure

    transformers.set_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model = _adapted(plain, method)
    names = ["negative", "positive"]

    def encoded(path: Path) -> list[dict[str, Any]]:
        rows = sentences(path)
        ids = tokenizer([text for text, _ in rows], truncation=True, max_length=126)["input_ids"]
        return [{"input_ids": each, "labels": names.index(label)} for each, (_, label) in zip(ids, rows, strict=True)]

    train, test = (encoded(data / f"sentence-polarity-{split}.tsv") for split in ("train", "test"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=64,
            learning_rate=ENCODER_RATES[method],
            warmup_steps=20,
            lr_scheduler_type="linear",
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=train,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        with measure(FootprintConfig()) as meter:
            trainer.train()
            cost = meter.read()
        said = trainer.predict(test).predictions  # type: ignore[arg-type]
    scores = said[0] if isinstance(said, tuple) else said
    right = np.asarray(scores).argmax(axis=1) == np.array([row["labels"] for row in test])
    trained, total = _parameters(model)
    return {
        "accuracy": float(right.mean()),
        "seconds": cost.seconds,
        "joules": cost.joules,
        "trained": trained,
        "parameters": total,
    }


def questions(path: Path, limit: int) -> list[dict[str, str]]:
    """The first rows of a file of questions with answers."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(limit), strict=False)]


def padded(tokenizer: Any, rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """A batch of questions with answers, padded to the longest; only answers are supervised."""
    import torch

    told: list[tuple[list[int], list[int]]] = []
    for row in rows:
        asked = [{"role": "user", "content": row["question"]}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        answered = [*asked, {"role": "assistant", "content": row["answer"]}]
        ids = tokenizer.apply_chat_template(answered, return_dict=False)
        # What a template writes behind the end of an answer is not to be learned.
        while ids[-1] != tokenizer.eos_token_id:
            ids.pop()
        told.append((ids, [-100] * len(prompt) + ids[len(prompt) :]))
    width = max(len(ids) for ids, _ in told)
    return {
        "input_ids": torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in told]),
        "labels": torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in told]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in told]),
    }


def instruct(base: Path, data: Path, method: str, steps: int, count: int) -> dict[str, Any]:
    """A chat model adapted by transformers, peft and bitsandbytes, written as their guides do it: a loop over batches.

    Each step is the next ``count`` questions of the file. ``method`` is "lora" or "qlora".
    """
    import peft
    import torch
    import transformers

    transformers.set_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model: Any
    if method == "qlora":
        quantised: Any = transformers.BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        model = transformers.AutoModelForCausalLM.from_pretrained(
            base, quantization_config=quantised, dtype=torch.float32, device_map="cpu"
        )
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    base_bytes = model.get_memory_footprint()
    adapter = peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
    model = peft.get_peft_model(model, adapter).train()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=2e-4, weight_decay=0)
    rows = questions(data / "gsm8k-train.jsonl", steps * count)
    batches = [padded(tokenizer, rows[start : start + count]) for start in range(0, len(rows), count)]
    losses, marks = [], [time.perf_counter()]
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([each for each in model.parameters() if each.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        marks.append(time.perf_counter())
    trained, total = _parameters(model)
    return {
        "losses": losses,
        "seconds_per_step": (marks[-1] - marks[1]) / max(1, len(losses) - 1),
        "tokens_per_step": sum(int(batch["attention_mask"].sum()) for batch in batches) / len(batches),
        "base_bytes": base_bytes,
        "trained": trained,
        "parameters": total,
    }


def tune(base: Path, data: Path, *, packing: bool, steps: int, in_order: bool = False) -> dict[str, Any]:
    """A model from its starting weights on questions with answers by TRL's SFTTrainer, at its defaults or packed.

    ``in_order`` takes the examples as they stand in the file.
    """
    import tempfile

    import datasets
    import torch
    import transformers
    import trl

    transformers.set_seed(0)
    rows = questions(data / "gsm8k-train.jsonl", NUM_EXAMPLES)
    told = [
        {
            "prompt": [{"role": "user", "content": row["question"]}],
            "completion": [{"role": "assistant", "content": row["answer"]}],
        }
        for row in rows
    ]
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    marks: list[float] = []
    losses: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            marks.append(time.perf_counter())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
            if logs and "loss" in logs:
                losses.append(logs["loss"])

    with tempfile.TemporaryDirectory() as folder:
        arguments = trl.SFTConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=EXAMPLES_A_STEP,
            learning_rate=3e-4,
            lr_scheduler_type="constant",
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            packing=packing,
            bf16=False,
            gradient_checkpointing=False,
            max_length=1024,
            max_grad_norm=1.0,
            weight_decay=0.0,
        )
        if in_order:
            trl.SFTTrainer._get_train_sampler = lambda self, *_: torch.utils.data.SequentialSampler(self.train_dataset)
        trainer = trl.SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=datasets.Dataset.from_list(told),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        num_rows = len(trainer.train_dataset)
        trainer.train()
    examples_per_row = len(rows) / num_rows
    seconds = (marks[-1] - marks[2]) / max(1, len(marks) - 3)
    return {"examples_per_second": EXAMPLES_A_STEP * examples_per_row / seconds, "losses": losses}
