"""The configuration of a model of any family; a setting, which needs no torch."""

from preceptor.models.decoder_config import DecoderConfig
from preceptor.models.encoder_config import EncoderConfig
from preceptor.models.encoder_decoder_config import EncoderDecoderConfig
from preceptor.models.foreign_config import ForeignConfig
from preceptor.models.two_stream_config import TwoStreamConfig

ModelConfig = DecoderConfig | EncoderConfig | TwoStreamConfig | EncoderDecoderConfig | ForeignConfig
