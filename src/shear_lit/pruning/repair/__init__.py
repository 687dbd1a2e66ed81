"""Refit what a cut leaves, in closed form: block after block, towards what the source computes."""

from shear_lit.pruning.repair.blocks import Refitted, repair

__all__ = ["Refitted", "repair"]
