"""Pixel-aligned language models: every word tied to a place in the image."""

__version__ = "0.1.0"
