"""Decontamination: text of evaluation tasks is found in documents, and cut out of them."""
