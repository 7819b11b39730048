"""Layers, attention and losses that every model family shares."""
