"""A tiny random model and streams of made-up documents."""

import numpy as np
import pytest
import torch

from preceptor.models.decoder import build
from preceptor.models.decoder_config import DecoderConfig
from preceptor.tokenizer.stream import TokenStream

END_OF_TEXT = 0
VOCAB_SIZE = 40


def make_stream(documents, num_bytes=1000):
    """A stream of documents given as ids; each gets its end of text here."""
    closed = [[*document, END_OF_TEXT] for document in documents]
    offsets = np.cumsum([0, *map(len, closed)])
    tokens = np.array([token for document in closed for token in document], np.uint16)
    return TokenStream(tokens, offsets.astype(np.int64), [str(index) for index in range(len(closed))], num_bytes)


@pytest.fixture
def stream_of():
    return make_stream


@pytest.fixture(scope="session")
def model():
    config = DecoderConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        zero_init_outputs=False,
        initializer_range=0.4,
        dropout=0.3,
    )
    return build(config, torch.Generator().manual_seed(1)).eval()
