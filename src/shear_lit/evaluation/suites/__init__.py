"""Suites of downstream tasks, asked through lm-evaluation-harness: what is asked, who answers, what is kept."""
