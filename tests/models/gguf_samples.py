"""GGUF files of small random models, written as the converters of the llama.cpp project write them."""

import json
import warnings
from functools import cache

import gguf
import numpy as np
import tokenizers
import torch
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

SHAPE = {
    "vocab_size": 340,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
WIDE_HEADS = {**SHAPE, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}
MODELS = {
    # The head size of qwen3, and n_inner and n_positions of gpt2, transformers takes for granted in such a file.
    "llama": ("llama", {**SHAPE, "rope_theta": 5000.0}),
    "llama-biased": ("llama", {**SHAPE, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {**SHAPE, "rope_theta": 1e6, "tie_word_embeddings": True}),
    "qwen3": ("qwen3", {**SHAPE, "head_dim": 128}),
    "gemma2": ("gemma2", {**WIDE_HEADS, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0}),
    "gemma3": ("gemma3_text", {**WIDE_HEADS, "num_hidden_layers": 7, "rope_theta": 5e5, "rope_local_base_freq": 7e3}),
    "olmo2": ("olmo2", SHAPE),
    "gpt2": ("gpt2", {"vocab_size": 340, "n_embd": 64, "n_inner": 256, "n_layer": 2, "n_head": 4}),
    "gptneox": ("gpt_neox", {**SHAPE, "rotary_pct": 0.5, "rotary_emb_base": 5000.0}),
}
READ_BY_TRANSFORMERS = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2"]
TEXT = """The 12 quick brown foxes don't jump over 3456 lazy dogs; they'll rest.
    def f(x):  return x**2 + 10   # naïve café, déjà vu
Größe, Übung, 日本語のテキスト, тест ещё раз, 🙂 and 1.5e-3\n\n\tend
""" * 4  # fmt: skip
FUZZ = [
    *"aeiouTHEdn'stll 0123456789\n\t  .,;é日тü🙂",
    "e\u0301",
    "  ",
    "\r\n",
    " the",
    " 12",
    "<|im_end|>",
    "don't",
    "\u00a0",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def in_transformers(what, *arguments, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        found = transformers
        for part in what.split("."):
            found = getattr(found, part)
        return found(*arguments, **named)


@cache
def original(name):
    """A model of transformers with random weights, none of them at a value that hides a mistake."""
    model_type, shape = MODELS[name]
    torch.manual_seed(5)
    config = in_transformers("AutoConfig.for_model", model_type, **shape, attn_implementation="eager")
    model = in_transformers("AutoModelForCausalLM.from_config", config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return model


def as_gguf_stores(name, tensor, architecture, config):
    """The values as the converters of the llama.cpp project lay them out."""
    value = tensor.detach().numpy()
    heads, kv_heads = config.num_attention_heads, getattr(config, "num_key_value_heads", 0)
    if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
        halves = value.reshape(heads if "q_proj" in name else kv_heads, 2, -1, *value.shape[1:])
        return halves.swapaxes(1, 2).reshape(value.shape)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return value + 1
    if architecture == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return value.T
    if architecture == "gptneox" and "query_key_value" in name:
        by_head = value.reshape(heads, 3, -1, *value.shape[1:])
        return np.concatenate([by_head[:, part].reshape(-1, *value.shape[1:]) for part in range(3)])
    return value


def write_sizes(writer, architecture, config):
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.n_inner if architecture == "gpt2" else config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    if architecture == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    said = json.loads(config.to_json_string())["rope_parameters"]
    theta = said.get("full_attention", said)["rope_theta"]
    writer.add_rope_freq_base(theta)
    if architecture == "gptneox":
        writer.add_layer_norm_eps(config.layer_norm_eps)
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads // 2)
        writer.add_parallel_residual(config.use_parallel_residual)
        return
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if architecture == "llama":
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_vocab_size(config.vocab_size)
    elif architecture != "qwen2" and architecture != "olmo2":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if architecture.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if architecture == "gemma3":
        writer.add_rope_freq_base_swa(said["sliding_attention"]["rope_theta"])


def stored_as(value, kind):
    if kind == "F32" or value.ndim == 1:
        return np.ascontiguousarray(value, np.float32), gguf.GGMLQuantizationType.F32
    found = gguf.GGMLQuantizationType[kind]
    return gguf.quants.quantize(np.ascontiguousarray(value, np.float32), found), found


def write_model(path, name, *, kind="F32", tokenizer=None, title="", leave_out=(), extra=(), says=None):
    """A GGUF file of a model, its matrices stored as one kind of value."""
    model, architecture = original(name), name.removesuffix("-biased")
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(title or name)
    write_sizes(writer, architecture, config)
    (write_byte_level if tokenizer is None else tokenizer)(writer)
    for key, value in (says or {}).items():
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for theirs, tensor in model.state_dict().items():
        ours = "output.weight" if theirs == "lm_head.weight" else names.get_name(theirs, (".weight", ".bias"))
        assert ours is not None, theirs
        if ours in leave_out or (ours == "output.weight" and config.tie_word_embeddings):
            continue
        value, found = stored_as(as_gguf_stores(theirs, tensor, architecture, config), kind)
        writer.add_tensor(ours, value, raw_dtype=found)
    for ours, value in extra:
        writer.add_tensor(ours, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@cache
def byte_level(rule):
    """A byte-level tokenizer trained with the rule by which it cuts."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=rule == "llama-bpe"))
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule in ("gpt-2", "smollm"))
    steps = [last]
    if rule == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True), last]
    elif rule != "gpt-2":
        digits = {"llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}[rule]
        steps = [pre_tokenizers.Split(Regex(CONTRACTIONS + WORDS % digits), "isolated"), last]
    if rule == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=336,
        special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    assert tokenizer.get_vocab_size() == SHAPE["vocab_size"]
    return tokenizer


def write_byte_level(writer, rule="gpt-2", bos=False):
    tokenizer = byte_level(rule)
    said = json.loads(tokenizer.to_str())
    ids = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    added = {each["content"]: 3 if each["special"] else 4 for each in said["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list([token for token, _ in ids])
    writer.add_token_types([added.get(token, 1) for token, _ in ids])
    writer.add_token_merges([" ".join(pair) for pair in said["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.token_to_id(SPECIAL[1]))
    writer.add_eos_token_id(tokenizer.token_to_id(SPECIAL[2]))
    writer.add_pad_token_id(tokenizer.token_to_id(SPECIAL[0]))
    writer.add_add_bos_token(bos)
    writer.add_chat_template("{% for message in messages %}{{ message.content }}{% endfor %}")
