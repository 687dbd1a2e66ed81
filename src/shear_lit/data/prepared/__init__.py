"""What prepared data is: its manifest, its chunks, and whether they are whole."""
