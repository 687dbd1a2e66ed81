"""What a model family is, as tables over stock Hugging Face models; shapes and counts derived from them."""
