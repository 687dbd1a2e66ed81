"""The paper's equations (arXiv:2310.06694, arXiv:1712.01312): torch in, torch out; no I/O."""
