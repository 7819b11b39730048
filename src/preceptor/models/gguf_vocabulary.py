"""A tokenizer as the metadata of a GGUF file: the way back from ``gguf_tokenizer``, proved on texts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from preceptor.core.errors import ArtifactError
from preceptor.models.gguf_tokenizer import SPLIT_NAMES, tokenizer_json
from preceptor.tokenizer.chat import DEFAULT_TEMPLATE
from preceptor.tokenizer.tokenizer import Tokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_SPACE = "\u2581"
_PROOF = (
    "The 12 quick foxes don't jump over 3456 lazy dogs; they'll rest, WE'RE 1.5e-3 sure.",
    "def f(x):\n    return x**2 + 10   # na\u00efve\n\n\tElif\r\n",
    " café e\u0301 Größe 日本語のテキスト тест 🙂\u200d \ufb01\u00a0end   ",
    "".join(chr(code) for code in range(32, 256)),
    "HelloWorld camelCase ABCdef 12345678 a  1   \n \n  b",
)
_OTHER = "export with `--as merged`, which keeps tokenizer.json as it is"


def vocabulary(tokenizer: Tokenizer, num_rows: int, texts: Sequence[str] = ()) -> dict[str, Any]:
    """The keys of a GGUF file for a tokenizer, by which it gives the same ids; proved on built-in and given texts.

    ``num_rows`` is how many embeddings the model has; rows without a token are filled up.

    Raises:
        ArtifactError: it is of a kind that GGUF cannot say, or what is read back gives other ids.
    """
    table = json.loads(tokenizer.definition)
    model = table["model"]
    if model["type"] != "BPE":
        raise ArtifactError(
            f"a GGUF file holds byte-pair tokenizers, and this one is of the kind {model['type']}", remedy=_OTHER
        )
    is_pieces = bool(model.get("byte_fallback"))
    tokens, types = _tokens(table, num_rows)
    keys: dict[str, Any] = {"tokens": tokens, "token_type": types}
    exact = tokenizers.Tokenizer.from_str(tokenizer.definition)
    exact.no_padding()
    exact.no_truncation()
    keys |= _ends(tokenizer, exact)
    if is_pieces:
        keys |= {"model": "llama", "scores": _scores(model, tokens)}
        choices: list[dict[str, Any]] = [{"pre": "default", "add_space_prefix": it} for it in (False, True)]
    else:
        merges = [" ".join(each) if isinstance(each, list) else each for each in model["merges"]]
        keys |= {"model": "gpt2", "merges": merges}
        choices = [{"pre": name} for name in SPLIT_NAMES]
    expected = [exact.encode(text).ids for text in (*_PROOF, *texts)]
    for choice in choices:
        said = {f"tokenizer.ggml.{key}": value for key, value in {**keys, **choice}.items()}
        if _ids(said, (*_PROOF, *texts)) == expected:
            template = tokenizer.chat_template
            return said | {"tokenizer.chat_template": DEFAULT_TEMPLATE if template is None else template}
    raise ArtifactError("none of the rules of GGUF files cuts text as this tokenizer does", remedy=_OTHER)


def _ids(said: Mapping[str, Any], texts: Sequence[str]) -> list[list[int]] | None:
    """The ids that whoever reads these keys gives to texts; None where they are of no use."""
    try:
        read = tokenizers.Tokenizer.from_str(tokenizer_json(said, "the vocabulary"))
    except ArtifactError:
        return None
    return [read.encode(text).ids for text in texts]


def _tokens(table: Mapping[str, Any], num_rows: int) -> tuple[list[str], list[int]]:
    """The token of every row of the embedding, and of which type it is."""
    model = table["model"]
    names = {number: token for token, number in model["vocab"].items()}
    kinds = {
        number: _BYTE if model.get("byte_fallback") and len(token) == 6 and token.startswith("<0x") else _NORMAL
        for number, token in names.items()
    }
    for each in table["added_tokens"]:
        names[each["id"]] = each["content"]
        kinds[each["id"]] = _CONTROL if each["special"] else _USER_DEFINED
    unknown = model.get("unk_token")
    if unknown is not None and unknown in model["vocab"]:
        kinds[model["vocab"][unknown]] = _UNKNOWN
    if names and max(names) >= num_rows:
        raise ArtifactError(
            f"the tokenizer has {max(names) + 1} tokens, and the model {num_rows} embeddings",
            remedy="train the model again with its tokenizer",
        )
    types = [kinds.get(number, _UNUSED) for number in range(num_rows)]
    tokens = [names.get(number, f"[PAD{number}]") for number in range(num_rows)]
    if model.get("byte_fallback"):
        # GGUF keeps the pieces that a user defined with the spaces of the text.
        tokens = [
            token.replace(_SPACE, " ") if kind == _USER_DEFINED else token
            for token, kind in zip(tokens, types, strict=True)
        ]
    return tokens, types


def _scores(model: Mapping[str, Any], tokens: Sequence[str]) -> list[float]:
    """The higher, the earlier a piece is made; pieces that no merge makes come first of all."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(model["merges"]):
        left, right = pair if isinstance(pair, list) else pair.split(" ")
        ranks.setdefault(left + right, rank)
    order = {piece: place for place, piece in enumerate(sorted(ranks, key=ranks.__getitem__), 1)}
    return [-float(order.get(token, 0)) for token in tokens]


def _ends(tokenizer: Tokenizer, exact: tokenizers.Tokenizer) -> dict[str, Any]:
    """The ids with a role, and whether a text begins and ends with them."""
    end = tokenizer.end_of_text_id
    bos = exact.token_to_id(tokenizer.bos_token)
    plain, whole = (exact.encode("a", add_special_tokens=it).ids for it in (False, True))
    before = len(whole) > len(plain) and whole[: -len(plain)][:1] == [bos]
    keys = {
        "bos_token_id": end if bos is None else bos,
        "eos_token_id": end,
        "padding_token_id": tokenizer.set_id("pad_token", end),
        "add_bos_token": before,
        "add_eos_token": len(whole) > len(plain) + before and whole[-1] == end,
    }
    return keys if tokenizer.unknown_id is None else keys | {"unknown_token_id": tokenizer.unknown_id}
