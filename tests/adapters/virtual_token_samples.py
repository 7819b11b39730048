"""Small models of every family, and peft's reading of what was saved of them: for the tests of prefixes and prompts."""

import warnings
from dataclasses import fields
from pathlib import Path

import torch
from torch.nn import functional as F

from preceptor.adapters.adapter_config import AdapterConfig
from preceptor.adapters.attach import adapt, save_adapter
from preceptor.models import decoder, encoder, encoder_decoder, two_stream
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.interchange import save_model
from preceptor.models.two_stream_config import TwoStreamConfig
from preceptor.nn.inputs import Inputs
from preceptor.nn.losses import IGNORED

VOCAB_SIZE = 61
START = 3
NUM_TOKENS = 3
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
PREFIX = AdapterConfig(kind="prefix", num_virtual_tokens=NUM_TOKENS)
MADE = AdapterConfig(kind="prefix", num_virtual_tokens=NUM_TOKENS, hidden_size=20)
PROMPT = AdapterConfig(kind="prompt", num_virtual_tokens=NUM_TOKENS)

_SIZE = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3}
_SIZE |= {"num_attention_heads": 4, "max_position_embeddings": 48, "initializer_range": 0.2}
_ROTARY = {"num_key_value_heads": 2, "head_dim": 12, "zero_init_outputs": False, "qk_norm": "none"}
_GPT2 = _ROTARY | {"head_dim": 8, "num_key_value_heads": 4, "norm": "layernorm", "positions": "learned"}
_GPT2 |= {"gated": False, "attention_bias": "all", "mlp_bias": True, "hidden_act": "gelu_new", "norm_eps": 1e-5}
_NEOX = _GPT2 | {"positions": "rotary", "rotary_fraction": 0.5, "parallel_residual": True, "hidden_act": "gelu"}
_GEMMA = _ROTARY | {"norm_offset": True, "scale_embedding": True, "hidden_act": "gelu_pytorch_tanh"}
_GEMMA2 = _GEMMA | {"norm_placement": "both", "attention_scale": 24**-0.5, "attention_softcap": 5.0}
_GEMMA2 |= {"logit_softcap": 3.0, "sliding_window": 6, "full_attention_every": 2}
_GEMMA3 = _GEMMA2 | {"attention_softcap": 0.0, "logit_softcap": 0.0, "qk_norm": "head", "rope_theta": 1e6}
_BERT = {"positions": "learned", "type_vocab_size": 2, "norm_placement": "after", "norm_bias": True, "gated": False}
_BERT |= {"attention_bias": True, "mlp_bias": True, "lm_head_bias": True, "norm_eps": 1e-12}
_PAIR = {"num_decoder_layers": 3, "head_dim": 6, "decoder_start_token_id": START}
_T5 = _PAIR | {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "initializer_factor": 0.5}
_T5 |= {"gated": False, "hidden_act": "relu", "tie_word_embeddings": True, "scale_decoder_outputs": True}
_BART = _PAIR | {"head_dim": 8, "positions": "learned", "position_offset": 2, "norm": "layernorm", "norm_eps": 1e-5}
_BART |= {"norm_placement": "after", "normalize_embedding": True, "gated": False, "hidden_act": "gelu", "bias": True}
_BART |= {"attention_scale": 0.0, "tie_word_embeddings": True, "final_logits_bias": True, "initializer": "normal"}
_MARIAN = _BART | {"positions": "sinusoidal", "position_offset": 0, "normalize_embedding": False}
_MARIAN |= {"scale_embedding": True, "hidden_act": "relu", "initializer": "xavier"}

DECODERS = {
    "llama": _ROTARY,
    "mistral": _ROTARY | {"sliding_window": 5},
    "qwen3": _ROTARY | {"qk_norm": "head"},
    "olmo2": _ROTARY | {"qk_norm": "width", "norm_placement": "after", "tie_word_embeddings": False, "head_dim": 8},
    "gpt2": _GPT2,
    "gpt_neox": _NEOX | {"tie_word_embeddings": False},
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA3 | {"rope_theta_local": 1e3, "full_attention_every": 3},
}
ENCODERS = {
    "bert": _BERT,
    "roberta": _BERT | {"position_offset": 2, "type_vocab_size": 1, "norm_eps": 1e-5},
    "distilbert": _BERT | {"type_vocab_size": 0},
    "modernbert": {"sliding_window": 4, "full_attention_every": 3, "rope_theta": 1e5, "rope_theta_local": 1e3},
}
PAIRS = {
    "t5": _T5,
    "t5, four layers": _T5 | {"num_decoder_layers": 4, "num_hidden_layers": 4},
    "bart": _BART,
    "marian": _MARIAN,
}
PAIRS["bart, scaled"] = _BART | {"scale_embedding": True}
TWO_STREAMS = {"xlnet": {}}
FAMILIES = ("llama", "gemma2", "gpt2", "bert", "modernbert", "t5", "bart")
"""One model of each way to know positions and to look at others."""


def built(name: str) -> torch.nn.Module:
    """A model in evaluation mode, none of whose weights is at a value that hides a mistake."""
    module, config, shapes = next(
        found
        for found in (
            (decoder, DecoderConfig, DECODERS),
            (encoder, EncoderConfig, ENCODERS),
            (encoder_decoder, EncoderDecoderConfig, PAIRS),
            (two_stream, TwoStreamConfig, TWO_STREAMS),
        )
        if name in found[2]
    )
    known = {field.name for field in fields(config)}
    size = {key: value for key, value in _SIZE.items() if key in known}
    model = module.build(config(**{**size, **shapes[name]}), torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def adapted(
    name: str, config: AdapterConfig, folder: Path | None = None, start_ids: list[int] | None = None
) -> torch.nn.Module:
    """A model with a prefix or a prompt; both are saved where a folder is named."""
    model = built(name)
    if folder is not None:
        saved(model, folder)
    adapt(model, config, torch.Generator().manual_seed(3), start_ids=start_ids)
    if folder is not None:
        save_adapter(model, config, folder / "adapter", "a-base")
    return model


def tokens(rows: int = 3, length: int = 15, seed: int = 5) -> torch.Tensor:
    """Rows of tokens none of which has a meaning of its own."""
    return torch.randint(4, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(seed))


def next_tokens(ids: torch.Tensor) -> torch.Tensor:
    return torch.cat((ids[:, 1:], torch.full((len(ids), 1), IGNORED)), dim=1)


def in_front(virtual: list[int], ids: torch.Tensor) -> torch.Tensor:
    """The rows with a prompt in front of each."""
    return torch.cat((torch.tensor(virtual, dtype=torch.int64).expand(len(ids), -1), ids), dim=1)


def inputs_of(name: str, ids: torch.Tensor, virtual: list[int] | None = None, source: int = 11) -> Inputs:
    """What a model reads of these rows, with the prompt where the model expects it."""
    virtual = virtual or []
    if name in PAIRS:
        return Inputs(ids, source=Inputs(in_front(virtual, tokens(len(ids), source, 7))))
    return Inputs(in_front(virtual, ids))


def saved(model: torch.nn.Module, folder: Path) -> Path:
    """The folder of the base model, and one for the adapter in it."""
    for path in (folder, folder / "adapter"):
        path.mkdir(exist_ok=True)
    save_model(model, folder)
    return folder


def their_base(name: str, folder: Path) -> torch.nn.Module:
    """A saved model as transformers reads it."""
    kind = "AutoModelForSeq2SeqLM" if name in PAIRS else "AutoModel" if name in ENCODERS else "AutoModelForCausalLM"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        transformers.utils.logging.set_verbosity_error()
        return getattr(transformers, kind).from_pretrained(folder, attn_implementation="eager").eval()


def peft_task(name: str) -> str:
    """What peft calls that for which a model is adapted."""
    return "SEQ_2_SEQ_LM" if name in PAIRS else "FEATURE_EXTRACTION" if name in ENCODERS else "CAUSAL_LM"


def peft_of(name: str, folder: Path, adapter: Path | None = None) -> torch.nn.Module:
    """A saved model with the adapter beside it as peft reads them, ready to be trained."""
    base = their_base(name, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import PeftModel

        model = PeftModel.from_pretrained(base, adapter or folder / "adapter").eval()
    model.prompt_encoder["default"].embedding.weight.requires_grad_(True)
    return model


def their_states(name: str, model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The logits, or of an encoder the states, that peft's model gives for these rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name in PAIRS:
            return model(input_ids=tokens(len(ids), 11, 7), decoder_input_ids=ids).logits
        given = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        return given.last_hidden_state if name in ENCODERS else given.logits


def our_states(name: str, model: torch.nn.Module, inputs: Inputs) -> torch.Tensor:
    """The same of ours."""
    return model.hidden(inputs) if name in ENCODERS else model(inputs)


def their_loss(name: str, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A number to take gradients of: the mean loss, or of an encoder the mean square of its states."""
    return states.square().mean() if name in ENCODERS else F.cross_entropy(states.flatten(0, 1), labels.flatten())


def our_loss(name: str, model: torch.nn.Module, inputs: Inputs, labels: torch.Tensor) -> torch.Tensor:
    """The same of ours."""
    if name in ENCODERS:
        return model.hidden(inputs).square().mean()
    total, _, count = model.loss_sum(inputs, labels)
    return total / count
