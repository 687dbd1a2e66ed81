"""Which tokens of a vocabulary write in a script other than the Latin one."""

import unicodedata
from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.tokens.tokenizer import TextTokenizer

EXPONENT = 0.3
"""How often a script is drawn: its tokens to this power (arXiv:1911.02116, where it is languages and their texts)."""
_PART = "\ufffd"
"""What bytes that are a part of a character are decoded to: most scripts are mostly written with such tokens."""
_BETWEEN = ("", ".", ",", "،", "。", "\uff0c", "、", "।")
"""What may stand between words, white space aside."""
_GREEK = 0x370
"""The first letters that are neither Latin nor put to others to change them."""


class OtherScripts(NamedTuple):
    """The part of a vocabulary that text in other scripts is written with, by token id."""

    begins: NDArray[np.float64]
    """How often a text begins with each token, all together 1; 0 for those that are in no other script."""
    writes: NDArray[np.bool_]
    """The tokens of other scripts, and those that stand between words."""


def other_scripts(tokenizer: TextTokenizer, vocabulary: int) -> OtherScripts | None:
    """The part of the tokens below ``vocabulary`` that writes in other scripts than Latin; None where there is none."""
    backend = tokenizer.backend
    special = {index for index, added in backend.get_added_tokens_decoder().items() if added.special}
    ids = [index for index in backend.get_vocab().values() if index < vocabulary and index not in special]
    texts = backend.decode_batch([[index] for index in ids])
    scripts = {index: script for index, text in zip(ids, texts, strict=True) if (script := _script(text))}
    if not scripts:
        return None
    begins, writes = np.zeros(vocabulary), np.zeros(vocabulary, dtype=np.bool_)
    sizes = Counter(scripts.values())
    begins[list(scripts)] = [sizes[script] ** (EXPONENT - 1) for script in scripts.values()]
    writes[[*scripts, *(index for index, text in zip(ids, texts, strict=True) if _is_between(text))]] = True
    return OtherScripts(begins / begins.sum(), writes)


def _script(text: str) -> str | None:
    """The script of the first letter of a token, by its Unicode name; None where it has none but Latin ones."""
    for character in text:
        if character == _PART:
            return _PART
        if unicodedata.category(character)[0] in "LM":
            name = unicodedata.name(character, "")
            return name.partition(" ")[0] or None if ord(character) >= _GREEK else None
    return None


def _is_between(text: str) -> bool:
    return len(text) <= 2 and text.strip() in _BETWEEN
