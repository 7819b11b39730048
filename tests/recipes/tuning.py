"""Tiny base models as transformers writes them, small files of examples, and runs that teach the one the other."""

import json
from pathlib import Path

import tokenizers
import torch
from tokenizers import models, pre_tokenizers, processors, trainers
from tokenizers.decoders import WordPiece as WordPieceDecoder

from preceptor.core.interrupt import Stop
from preceptor.parallel.team import Team
from preceptor.recipes.pipeline import Pipeline
from preceptor.recipes.run import load_run

NOUNS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch"]
GOOD, BAD = ["fine", "lovely", "bright"], ["dull", "awful", "broken"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128}
SHORT = (
    *("finetuning.context_length=96", "finetuning.batch_tokens=384", "finetuning.micro_batch_tokens=384"),
    *("finetuning.duration=3 steps", "finetuning.validation_tokens=512", "finetuning.held_out_fraction=0.3"),
    *("finetuning.schedule.warmup_steps=1", "evaluation.num_questions=4", "evaluation.max_answer_tokens=6"),
)


def _words() -> list[str]:
    return [f"the {noun} is {said} and {noun} was {said}" for noun in NOUNS for said in (*GOOD, *BAD)]


def _byte_level(folder: Path, names: dict[str, str]) -> None:
    own = tokenizers.ByteLevelBPETokenizer()
    own.train_from_iterator(_words(), vocab_size=400, min_frequency=1, special_tokens=list(names.values()))
    own.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def make_encoder(folder: Path) -> Path:
    """A BERT of two layers with a WordPiece tokenizer."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(1)
    BertForMaskedLM(BertConfig(vocab_size=200, intermediate_size=48, **SMALL)).save_pretrained(folder)
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    own = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    own.pre_tokenizer, own.decoder = pre_tokenizers.BertPreTokenizer(), WordPieceDecoder()
    own.train_from_iterator(_words(), trainers.WordPieceTrainer(vocab_size=200, special_tokens=marks))
    own.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    own.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), marks, strict=True))
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


def make_decoder(folder: Path, seed: int = 2) -> Path:
    """A Llama of two layers with byte-level BPE."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=400, intermediate_size=48, num_key_value_heads=1, **SMALL)
    LlamaForCausalLM(config).save_pretrained(folder)
    _byte_level(folder, {"eos_token": "</s>"})
    return folder


def make_encoder_decoder(folder: Path) -> Path:
    """A T5 of two layers on each side with byte-level BPE."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(3)
    config = T5Config(
        vocab_size=400, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, pad_token_id=0, eos_token_id=1
    )
    config.decoder_start_token_id = 0
    T5ForConditionalGeneration(config).save_pretrained(folder)
    _byte_level(folder, {"pad_token": "<pad>", "eos_token": "</s>"})
    return folder


def rows_of(name: str, count: int = 40) -> list[dict[str, object]]:
    """Examples of a task, in a shape that its columns tell."""
    return [_ROWS[name](number, NOUNS[number % 12], (*GOOD, *BAD)[number * 5 % 6]) for number in range(count)]


def _mood(said: str) -> str:
    return "good" if said in GOOD else "bad"


def _answer(number: int, noun: str, said: str) -> dict[str, object]:
    # Longer than the window, with the answer at places all over the text.
    words = [f"the {NOUNS[(number + place) % 12]} was {place}" for place in range(40)]
    words.insert(number * 7 % 40, f"here the {noun} is {said} {number}")
    answers = [] if number % 8 == 0 else [f"{said} {number}"]
    return {"question": f"how is the {noun}?", "context": " . ".join(words), "answers": answers}


_ROWS = {
    "classify": lambda n, noun, said: {"text": f"the {noun} is {said} {n}", "label": _mood(said)},
    "labels": lambda n, noun, said: {
        "text": f"the {noun} is {said} {n}",
        "labels": [*([_mood(said)] if n % 5 else []), *(["tree"] if n % 3 else [])],
    },
    "pairs": lambda n, noun, said: {
        "premise": f"the {noun} is {said} {n}",
        "hypothesis": f"it is {GOOD[n % 3]}",
        "label": "entailment" if said in GOOD else "contradiction",
    },
    "regress": lambda n, noun, said: {"text": f"the {noun} is {said} {n}", "score": 1.5 + (said in GOOD) + n / 40},
    "tag": lambda n, noun, said: {
        "tokens": ["the", noun, "is", said, str(n)],
        "tags": ["O", "B-TREE", "O", "B-MOOD", "I-MOOD"],
    },
    "answer": _answer,
    "translate": lambda n, noun, said: {"source": f"the {noun} is {said} {n}", "target": f"{said} est {noun} {n}"},
    "summarise": lambda n, noun, said: {
        "document": f"the {noun} is {said} {n}. " + f"the {noun} was {n}. " * 3,
        "summary": f"{noun} {said}",
    },
    "instruct": lambda n, noun, said: {
        "messages": [
            {"role": "system", "content": f"You know the {noun}."},
            {"role": "user", "content": f"how is the {noun} {n}?"},
            {"role": "assistant", "content": said},
            {"role": "user", "content": "and then?"},
            {"role": "assistant", "content": f"{said} {noun}"},
        ]
    },
    "prefer": lambda n, noun, said: {
        "prompt": f"how is the {noun} {n}?",
        "chosen": GOOD[n % 3],
        "rejected": BAD[n % 3],
    },
}


def write_rows(folder: Path, name: str, count: int = 40) -> Path:
    """A file of examples."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(name, count)), encoding="utf-8")
    return path


def pipeline(
    recipe: str,
    base: Path,
    examples: Path,
    out: Path,
    *overrides: str,
    stop: Stop | None = None,
    team: Team | None = None,
) -> Pipeline:
    """A run of a shipped recipe, of a few steps."""
    named = (f"base.model={base}", f"finetuning.examples={examples}")
    return Pipeline(load_run(recipe, [*named, *SHORT, *overrides]), out, stop or Stop(), team=team or Team())
