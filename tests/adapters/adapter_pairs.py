"""Small models of every family, ours and transformers' of the same weights, and adapters on both sides."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from preceptor.adapters.low_rank_targets import low_rank_layers
from preceptor.models.decoder import build as build_decoder
from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder import build as build_encoder
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.encoder_decoder import build as build_encoder_decoder
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.interchange import save_model
from preceptor.models.language_model import LanguageModel
from preceptor.models.two_stream import build as build_two_stream
from preceptor.models.two_stream_config import TwoStreamConfig
from preceptor.nn.inputs import Inputs

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
VOCAB_SIZE = 61
_DECODER = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 32,
    "zero_init_outputs": False,
    "initializer_range": 0.1,
    "qk_norm": "none",
}
_GPT2 = {
    "num_key_value_heads": 2,
    "norm": "layernorm",
    "positions": "learned",
    "gated": False,
    "attention_bias": "all",
    "mlp_bias": True,
    "hidden_act": "gelu_new",
    "tie_word_embeddings": True,
    "norm_eps": 1e-5,
}
_BERT = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.1,
    "positions": "learned",
    "type_vocab_size": 2,
    "norm_placement": "after",
    "norm_bias": True,
    "gated": False,
    "attention_bias": True,
    "mlp_bias": True,
    "lm_head_bias": True,
    "norm_eps": 1e-12,
}
_T5 = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 32,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "tie_word_embeddings": True,
    "scale_decoder_outputs": True,
    "initializer_factor": 0.5,
}


def small_model(name: str) -> LanguageModel:
    """A model of a shape, with weights that hide nothing, in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    model: LanguageModel
    match name:
        case "llama" | "llama, tied":
            model = build_decoder(DecoderConfig(**_DECODER, tie_word_embeddings=name.endswith("tied")), generator)
        case "gpt2":
            model = build_decoder(DecoderConfig(**{**_DECODER, **_GPT2}), generator)
        case "neox":
            neox = {"positions": "rotary", "parallel_residual": True, "rotary_fraction": 0.25, "hidden_act": "gelu"}
            model = build_decoder(DecoderConfig(**{**_DECODER, **_GPT2, **neox}), generator)
        case "modernbert":
            modern = {"sliding_window": 4, "full_attention_every": 3, "rope_theta": 1e5, "rope_theta_local": 1e3}
            shape = {name: _BERT[name] for name in list(_BERT)[:7]}
            model = build_encoder(EncoderConfig(**shape, **modern), generator)
        case "xlnet":
            shape = {name: _BERT[name] for name in list(_BERT)[:5]}
            model = build_two_stream(TwoStreamConfig(**shape, initializer_range=0.1), generator)
        case "bert":
            model = build_encoder(EncoderConfig(**_BERT), generator)
        case _:
            model = build_encoder_decoder(EncoderDecoderConfig(**_T5), generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def transformers_twin(model: LanguageModel, folder: Path) -> Any:
    """Transformers' model of the same weights, in evaluation mode."""
    folder.mkdir(exist_ok=True)
    save_model(model, folder)
    families = {"decoder": "CausalLM", "encoder": "MaskedLM", "encoder_decoder": "Seq2SeqLM"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        auto = getattr(transformers, f"AutoModelFor{families[model.config.family]}")
        return auto.from_pretrained(folder, attn_implementation="eager").eval()


def loaded_by_peft(model: LanguageModel, base: Path, adapter: Path) -> Any:
    """Transformers' twin of a base with the adapter of a folder, as peft reads it, in evaluation mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import PeftModel

        return PeftModel.from_pretrained(transformers_twin(model, base), adapter, is_trainable=True).eval()


def made_by_peft(model: LanguageModel, base: Path, adapter: Path, **settings: Any) -> Any:
    """A random adapter of peft on transformers' twin of the model, also saved in a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model

        twin = transformers_twin(model, base)
        made = get_peft_model(twin, LoraConfig(**{"r": 4, "lora_alpha": 6, **settings})).eval()
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "lora_magnitude" in name:
                    parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
                elif "lora_" in name and settings.get("init_lora_weights") != "pissa":
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
                elif "lora_" in name:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        made.save_pretrained(adapter, save_embedding_layers=False)
        return made


def drawn(model: LanguageModel, seed: int = 4) -> LanguageModel:
    """The model with random values in every change, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in low_rank_layers(model).values():
            for matrix in layer.matrices():
                matrix.add_(0.1 * torch.randn(matrix.shape, generator=generator))
            if layer.lora_magnitude is not None:
                layer.lora_magnitude.mul_(1 + 0.3 * torch.rand(layer.lora_magnitude.shape, generator=generator))
    return model.eval()


def ids(seed: int = 5, length: int = 15) -> torch.Tensor:
    """Rows of tokens."""
    return torch.randint(2, VOCAB_SIZE, (2, length), generator=torch.Generator().manual_seed(seed))


def logits(model: LanguageModel) -> torch.Tensor:
    """What our model says of the sample."""
    source = Inputs(ids(6, 11)) if model.config.family == "encoder_decoder" else None
    return model(Inputs(ids(), source=source))


def their_logits(model: Any, family: str) -> torch.Tensor:
    """What transformers' model says of it."""
    if family == "encoder_decoder":
        return model(input_ids=ids(6, 11), decoder_input_ids=ids()).logits
    return model(input_ids=ids()).logits


def loss(scores: torch.Tensor) -> torch.Tensor:
    """A loss of the sample."""
    return F.cross_entropy(scores.flatten(0, 1), ids(7).flatten())
