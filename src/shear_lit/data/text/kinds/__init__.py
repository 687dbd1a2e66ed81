"""The kinds of input, a class each: how it is cut into pieces, and how a piece is read."""
