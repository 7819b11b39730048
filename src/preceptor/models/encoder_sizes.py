"""Published encoders, two-stream models and encoder-decoders."""

from preceptor.models.size_groups import SizeGroup

_BERT = "hidden_size intermediate_size num_hidden_layers num_attention_heads"
_NO_HEAD = "The figure leaves out the head of the masked language model."
_OF_BERT = "The figure is that of BERT, whose shape this is, but for relative positions and the words."
_T5 = "d_model d_ff num_layers num_heads d_kv"
_BART = (
    "d_model encoder_ffn_dim decoder_ffn_dim encoder_layers decoder_layers "
    "encoder_attention_heads decoder_attention_heads"
)
ENCODERS = (
    SizeGroup(
        family="encoder",
        model_type="bert",
        source="Devlin et al. 2019, section 3",
        shared={"max_position_embeddings": 512, "type_vocab_size": 2, "tie_word_embeddings": True},
        columns=f"{_BERT} vocab_size",
        rows={
            "bert-base-uncased": (768, 3072, 12, 12, 30522, 109_514_298, "110M"),
            "bert-large-uncased": (1024, 4096, 24, 16, 30522, 335_174_458, "340M"),
            "bert-base-cased": (768, 3072, 12, 12, 28996, 108_340_804, "110M"),
            "bert-large-cased": (1024, 4096, 24, 16, 28996, 333_610_308, "340M"),
        },
        differs={
            "bert-large-cased": "The figure is that of the uncased model, whose vocabulary is larger.",
        },
    ),
    SizeGroup(
        family="encoder",
        model_type="roberta",
        source="Liu et al. 2019, table 9; RoBERTa's README in facebookresearch/fairseq for the figures",
        shared={"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
        columns=_BERT,
        rows={
            "roberta-base": (768, 3072, 12, 12, 124_697_433, "125M"),
            "roberta-large": (1024, 4096, 24, 16, 355_412_057, "355M"),
        },
    ),
    SizeGroup(
        family="encoder",
        model_type="distilbert",
        source="Sanh et al. 2019, table 3",
        shared={"vocab_size": 30522, "max_position_embeddings": 512},
        columns="dim hidden_dim n_layers n_heads",
        rows={"distilbert-base": (768, 3072, 6, 12, 66_985_530, "66M")},
        differs={
            "distilbert-base": _NO_HEAD,
        },
    ),
    SizeGroup(
        family="encoder",
        model_type="modernbert",
        source="Warner et al. 2024, section 2 and table 4",
        shared={"vocab_size": 50368, "max_position_embeddings": 8192},
        columns=_BERT,
        rows={
            "modernbert-base": (768, 1152, 22, 12, 149_655_232, "149M"),
            "modernbert-large": (1024, 2624, 28, 16, 395_881_664, "395M"),
        },
        differs={
            "modernbert-base": _NO_HEAD,
            "modernbert-large": _NO_HEAD,
        },
    ),
    SizeGroup(
        family="two_stream",
        model_type="xlnet",
        source="Yang et al. 2019, appendix A.4; the list of models in transformers' documentation for the figures",
        shared={"vocab_size": 32000},
        columns="d_model d_inner n_layer n_head",
        rows={
            "xlnet-base-cased": (768, 3072, 12, 12, 116_750_336, "110M"),
            "xlnet-large-cased": (1024, 4096, 24, 16, 360_300_800, "340M"),
        },
        differs={
            "xlnet-base-cased": _OF_BERT,
            "xlnet-large-cased": _OF_BERT,
        },
    ),
    SizeGroup(
        family="encoder_decoder",
        model_type="t5",
        source="Raffel et al. 2020, section 3.7",
        shared={"vocab_size": 32128, "feed_forward_proj": "relu", "tie_word_embeddings": True},
        columns=_T5,
        rows={
            "t5-small": (512, 2048, 6, 8, 64, 60_506_624, "60M"),
            "t5-base": (768, 3072, 12, 12, 64, 222_903_552, "220M"),
            "t5-large": (1024, 4096, 24, 16, 64, 737_668_096, "770M"),
            "t5-3b": (1024, 16384, 24, 32, 128, 2_851_598_336, "2.8B"),
            "t5-11b": (1024, 65536, 24, 128, 128, 11_307_321_344, "11B"),
        },
        differs={
            "t5-large": "The paper does not say how it counts; this shape has 738 million.",
            "t5-3b": "The count is 2.85 billion; the figure was cut off, not rounded.",
        },
    ),
    SizeGroup(
        family="encoder_decoder",
        model_type="t5",
        source="Shazeer 2020 for the gates, the config files of T5 1.1; Chung et al. 2022, table 2 for the figures",
        shared={"vocab_size": 32128, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        columns=_T5,
        rows={
            "t5-v1.1-small": (512, 1024, 8, 6, 64, 76_961_152, "80M"),
            "t5-v1.1-base": (768, 2048, 12, 12, 64, 247_577_856, "250M"),
            "t5-v1.1-large": (1024, 2816, 24, 16, 64, 783_150_080, "780M"),
            "t5-v1.1-xl": (2048, 5120, 24, 32, 64, 2_849_757_184, "3B"),
            "t5-v1.1-xxl": (4096, 10240, 24, 64, 64, 11_135_332_352, "11B"),
        },
    ),
    SizeGroup(
        family="encoder_decoder",
        model_type="bart",
        source="Lewis et al. 2020, section 2.1; BART's README in facebookresearch/fairseq for the figures",
        shared={"vocab_size": 50265, "max_position_embeddings": 1024, "activation_function": "gelu"},
        columns=_BART,
        rows={
            "bart-base": (768, 3072, 3072, 6, 6, 12, 12, 139_420_416, "140M"),
            "bart-large": (1024, 4096, 4096, 12, 12, 16, 16, 406_291_456, "400M"),
        },
    ),
    SizeGroup(
        family="encoder_decoder",
        model_type="marian",
        source="Vaswani et al. 2017, table 3 and section 5.1",
        shared={
            "vocab_size": 37000,
            "decoder_vocab_size": 37000,
            "pad_token_id": 0,
            "decoder_start_token_id": 0,
            "max_position_embeddings": 512,
            "activation_function": "relu",
            "scale_embedding": True,
            "share_encoder_decoder_embeddings": True,
            "tie_word_embeddings": True,
        },
        columns=_BART,
        rows={
            "transformer-base": (512, 2048, 2048, 6, 6, 8, 8, 63_082_496, "65M"),
            "transformer-big": (1024, 4096, 4096, 6, 6, 16, 16, 214_245_376, "213M"),
        },
        differs={
            "transformer-base": "The paper does not say how it counts; its sinusoids have no parameters.",
            "transformer-big": "The paper does not say how it counts; its sinusoids have no parameters.",
        },
    ),
)
