"""The paper's equations, against transcriptions of their own."""
