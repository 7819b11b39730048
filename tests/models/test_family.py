"""The contract that every family keeps."""

import re

import torch

from preceptor.models.decoder import FAMILY
from preceptor.models.decoder_config import DecoderConfig


def test_the_sharding_table_names_every_matrix_once():
    with torch.device("meta"):
        model = FAMILY.module(DecoderConfig(vocab_size=64, tie_word_embeddings=False))
    patterns = {pattern: re.compile(pattern.replace(".*", r"\..+") + "$") for pattern in FAMILY.sharding}
    for name, parameter in model.named_parameters():
        matching = [pattern for pattern, regex in patterns.items() if regex.match(name)]
        assert len(matching) == (1 if parameter.dim() == 2 else 0), (name, matching)
