"""Texts to the ids of their tokens, within bounded memory.

Worker processes import this module: it needs the tokenizers library and numpy, and neither torch nor transformers.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from shear_lit.data.tokens.cuts import Cutter

_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 256, 500_000  # an encoded text takes a hundred times its tokens' bytes


class Encoder:
    """Gives the ids that the tokenizer of a file gives, without the tokens that it adds around a text."""

    def __init__(
        self, file: str | Path, *, split_special_tokens: bool, most_whole_bytes: int = 2 << 20
    ) -> None:
        """Load the tokenizer of ``file``, a ``tokenizer.json``.

        Args:
            file: the tokenizer, in the form that the tokenizers library writes.
            split_special_tokens: whether a special token's name inside a text is text.
            most_whole_bytes: a longer text is encoded in pieces of half as much: encoding takes some 180 bytes of
                memory for each byte of a text.
        """
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = names_as_text(tokenizer) if split_special_tokens else tokenizer
        self._cutter = Cutter(self._tokenizer)
        self._most_bytes = most_whole_bytes

    def encode(self, texts: Iterable[str]) -> Iterator[NDArray[np.uint32] | None]:
        """The ids of each text in order; None for a long one that nothing tells how to cut."""
        for batch in self._batches(texts):
            if len(batch) == 1 and self._is_long(batch[0]):
                yield self._in_pieces(batch[0])
            else:
                yield from _ids(self._tokenizer, batch)

    def _batches(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Texts that are encoded at once, of which a long one is alone."""
        batch: list[str] = []
        characters = 0
        for text in texts:
            if batch and (
                len(batch) == _BATCH_DOCUMENTS
                or characters + len(text) > _BATCH_CHARACTERS
                or self._is_long(text)
                or self._is_long(batch[-1])
            ):
                yield batch
                batch, characters = [], 0
            batch.append(text)
            characters += len(text)
        if batch:
            yield batch

    def _is_long(self, text: str) -> bool:
        if len(text) * 4 <= self._most_bytes:  # no character has more bytes
            return False
        return len(text) > self._most_bytes or len(text.encode()) > self._most_bytes

    def _in_pieces(self, text: str) -> NDArray[np.uint32] | None:
        """The ids of a long text, or None where no cut is found in as much of it as may be encoded whole."""
        start, tokenizer, parts = 0, self._tokenizer, []
        while (latest := _reach(text, start, self._most_bytes)) < len(text):
            cut = self._cutter.find(text, _reach(text, start, self._most_bytes // 2), latest)
            if cut is None or not self._cutter.suits(tokenizer, text[start : cut.end]):
                return None
            parts += _ids(tokenizer, [text[start : cut.end]])
            start, tokenizer = cut.start, cut.tokenizer
        if not self._cutter.suits(tokenizer, text[start:]):
            return None
        return np.concatenate([*parts, *_ids(tokenizer, [text[start:]])])


def names_as_text(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer to which the name of a special token is text like any other, as it is to SentencePiece and tiktoken.

    The library's own switch, ``encode_special_tokens``, only stops it from looking for the names in a text. Its models
    find one all the same where they make it of smaller pieces, a Unigram model always. So the names become ones that
    no text has, and no two pieces are joined to one. A name of one character stays what the model takes it for.
    """
    found = renamed(tokenizer, _hidden)
    found.encode_special_tokens = True
    return found


def renamed(tokenizer: Tokenizer, rename: Callable[[str], str]) -> Tokenizer:
    """A tokenizer whose special tokens have other names, but for names of one character.

    It adds no tokens around a text, and offsets are those of all that a token stands for.
    """
    content = json.loads(tokenizer.to_str())
    names = {token["content"] for token in content["added_tokens"] if token["special"]}
    hidden = {name: rename(name) for name in names if len(name) > 1}
    for token in content["added_tokens"]:
        token["content"] = hidden.get(token["content"], token["content"])
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {hidden.get(token, token): index for token, index in model["vocab"].items()}
    else:
        model["vocab"] = [[hidden.get(token, token), score] for token, score in model["vocab"]]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if not {*pair, "".join(pair)} & hidden.keys()]
    if model.get("unk_token") in hidden:
        model["unk_token"] = hidden[model["unk_token"]]
    content |= {"post_processor": None, "decoder": None, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps(content))


def _hidden(name: str) -> str:
    return f"\uf8ff\x00{hashlib.sha256(name.encode()).hexdigest()}\x00\uf8ff"


def _ids(tokenizer: Tokenizer, texts: list[str]) -> list[NDArray[np.uint32]]:
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    # Twice as fast as an array of NumPy from the list.
    return [np.frombuffer(array("I", encoding.ids), dtype=np.uint32) for encoding in encoded]


def _reach(text: str, start: int, most_bytes: int) -> int:
    """Where the last character ends that has its place in so many bytes from ``start`` on."""
    return start + len(text[start : start + most_bytes].encode()[:most_bytes].decode(errors="ignore"))
