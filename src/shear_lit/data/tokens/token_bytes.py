"""How many bytes of text each token stands for, so that losses under two tokenizers can be compared."""

import json

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.tokens.tokenizer import TextTokenizer

_SPACE = "▁"  # what SentencePiece writes a space as


def token_bytes(tokenizer: TextTokenizer) -> NDArray[np.int64] | None:
    """Bytes of UTF-8 by token id; none where tokens do not keep all of the text (white space dropped, ...).

    Tokens that stand for no text (BOS, EOS, padding) have none. The space that SentencePiece puts before a text counts
    as a byte: one in a document.
    """
    backend = tokenizer.backend
    decoder = json.dumps(json.loads(backend.to_str())["decoder"], ensure_ascii=False)
    if '"ByteLevel"' in decoder:
        lengths = {index: len(token) for token, index in backend.get_vocab().items()}
    elif _SPACE in decoder:
        lengths = {index: _piece_bytes(token) for token, index in backend.get_vocab().items()}
    else:
        return None
    for index, added in backend.get_added_tokens_decoder().items():
        lengths[index] = 0 if added.special else len(added.content.encode())
    found = np.zeros(1 + max(lengths), dtype=np.int64)
    found[list(lengths)] = list(lengths.values())
    return found


def _piece_bytes(piece: str) -> int:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return 1
    return len(piece.replace(_SPACE, " ").encode())
