"""The whole method, small, on a real model and real text that packages carry."""
