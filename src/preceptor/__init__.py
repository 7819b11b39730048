"""Preceptor: language models trained from raw documents to a model that answers, with the evidence."""

__version__ = "0.1.0"
