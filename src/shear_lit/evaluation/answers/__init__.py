"""What tuned models answer: prompts with references, figures of answers, and what a judge prefers."""
