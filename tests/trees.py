"""What a directory holds, to compare it with another."""

import hashlib
from pathlib import Path


def tree(directory):
    """The files of a directory, and hashes of their contents."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(directory).rglob("*"))
        if path.is_file()
    }
