"""Gates on live models and the cut, against each other and against broken twins."""
