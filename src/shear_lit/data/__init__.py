"""Prepared text, the order in which its sequences are drawn, and the loader that Lightning sees."""
