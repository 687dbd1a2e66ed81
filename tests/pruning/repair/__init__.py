"""Cuts that are refitted in closed form, against least squares made here by hand."""
