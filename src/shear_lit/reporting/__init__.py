"""Numbers of a run, written for people; imports no training code."""
