"""Sheared LLaMA on Lightning: prune a pretrained model to an exact shape, then continue pre-training it."""

__version__ = "0.1.0"
