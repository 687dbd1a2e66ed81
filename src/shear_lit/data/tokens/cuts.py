"""Where a text may be cut so that the ids of its parts, one after the other, are those of the whole.

A tokenizer normalises a text, takes out the tokens that were added to it, cuts the rest into words by its
pre-tokenizer, and gives each word to its model, which knows nothing of the others. So a cut changes no id where

1. no added token holds the two characters around it: then none reaches over it;
2. a word ends there, **or** the tokenizer has no words and its model is a BPE no piece of which holds the two
   (normalised) characters around it. Such a model only ever joins neighbours to a piece that it has: it joins nothing
   across the cut, and what it joins on one side does not depend on the other. A Unigram model without words is
   never cut: it adds up scores from the beginning of a text, so that rounding decides between equal sums;
3. normaliser and pre-tokenizer do the same without the other side. What they do there depends on the characters nearby:
   their rules go through a text from left to right and start anew where a run of letters ends, and every cut is behind
   a letter. That it is so is tried, not believed: the ids around the cut must be those of its two sides, in two
   windows that begin at different places. The one pre-tokenizer that counts characters has no cuts.

A tokenizer that puts a space in front of a text would put one in front of each part: the second part is encoded as it
is, without its own leading space, or by a tokenizer that puts none, whichever gives the ids of the whole.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from typing import Any

from tokenizers import Encoding, Tokenizer

_WINDOWS = ((40, 40), (1000, 1000), (617, 1000))  # before and behind a cut; the first one is fast to say no
_MOST_TRIES = 50  # of each kind of place; where the first ones are none, the others hardly are
_LETTER = r"[^\W\d_]"
_BEFORE_A_WORD = re.compile(rf"(?<={_LETTER})(?=[ \n]{_LETTER})")
_BEFORE_A_SIGN = re.compile(rf"(?<={_LETTER})(?=[^\w'\u2019])")
_WITHOUT_SPACES = re.compile(r"(?<=[^\W\d_\u0000-\u08ff])(?=[^\W\d_\u0000-\u08ff])")  # behind Latin to Arabic


@dataclass(frozen=True)
class Cut:
    """A place between two parts of a text."""

    end: int
    """Where the first part ends."""
    start: int
    """Where the second part starts: behind a space which the tokenizer puts there itself."""
    tokenizer: Tokenizer
    """What encodes the second part."""


class Cutter:
    """Finds the places at which a text may be cut for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take the tokenizer; nothing is computed before the first cut is asked for."""
        self._tokenizer = tokenizer

    def find(self, text: str, earliest: int, latest: int) -> Cut | None:
        """The first cut that is found between two places of a text, if any is."""
        if not self._can_be_cut:
            return None
        for places in (
            _places(_BEFORE_A_WORD, text, earliest, latest),
            filter(lambda place: _is_sign(text[place]), _places(_BEFORE_A_SIGN, text, earliest, latest)),
            filter(
                lambda place: self._may_part(text[place - 1 : place + 1]),
                _places(_WITHOUT_SPACES, text, earliest, latest),
            ),
        ):
            for place in islice(places, _MOST_TRIES):
                if cut := self._cut(text, place):
                    return cut
        return None

    def suits(self, tokenizer: Tokenizer, part: str) -> bool:
        """Whether a part may be encoded by the tokenizer that a cut names.

        Behind a token that was added a tokenizer may put a space again, which the one that puts none does not do.
        """
        return tokenizer is self._tokenizer or not any(token in part for token in self._added)

    def _cut(self, text: str, place: int) -> Cut | None:
        if text[place - 1 : place + 1] in self._pairs_of_added:
            return None
        cuts = [Cut(place, place, self._tokenizer)]
        if text[place] == " ":
            cuts.append(Cut(place, place + 1, self._tokenizer))
        if self._without_prefix is not None:
            cuts.append(Cut(place, place, self._without_prefix))
        return next((cut for cut in cuts if self._changes_nothing(text, cut)), None)

    def _changes_nothing(self, text: str, cut: Cut) -> bool:
        return all(self._agrees(text, cut, before, behind) for before, behind in _WINDOWS)

    def _agrees(self, text: str, cut: Cut, before: int, behind: int) -> bool:
        """Whether the ids of so many characters around a cut are those of its two sides."""
        left, right = text[max(0, cut.end - before) : cut.end], text[cut.end : cut.end + behind]
        first = _encoded(self._tokenizer, left).ids
        second = _encoded(cut.tokenizer, right[cut.start - cut.end :]).ids
        whole = _encoded(self._tokenizer, left + right)
        agrees = bool(first and second) and whole.ids == first + second
        return agrees and self._are_apart(whole, len(first))

    def _are_apart(self, whole: Encoding, second: int) -> bool:
        """Whether nothing can have joined the token number ``second`` and the one before it."""
        if self._has_words:
            return bool(whole.word_ids[second - 1] != whole.word_ids[second])
        return whole.tokens[second - 1][-1] + whole.tokens[second][0] not in self._pairs

    def _may_part(self, pair: str) -> bool:
        """Whether two letters may be looked at closely: none makes another one of its neighbour, or a piece with it."""
        composed = unicodedata.normalize("NFKC", pair)
        alone = "".join(unicodedata.normalize("NFKC", letter) for letter in pair)
        return composed == alone and (self._has_words or pair not in self._pairs)

    @cached_property
    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return content

    @cached_property
    def _has_words(self) -> bool:
        return self._content["pre_tokenizer"] is not None

    @cached_property
    def _can_be_cut(self) -> bool:
        model, words = self._content["model"], self._content["pre_tokenizer"]
        if words is not None:
            return "FixedLength" not in json.dumps(words) and not model.get("dropout")
        affixes = ("continuing_subword_prefix", "end_of_word_suffix", "dropout", "ignore_merges")
        return model["type"] == "BPE" and not any(model.get(name) for name in affixes)

    @cached_property
    def _pairs(self) -> set[str]:
        return _pairs_of(self._content["model"]["vocab"])

    @cached_property
    def _added(self) -> list[str]:
        """The added tokens that are looked for in a text."""
        as_text = self._tokenizer.encode_special_tokens
        return [
            token["content"] for token in self._content["added_tokens"] if not (as_text and token["special"])
        ]

    @cached_property
    def _pairs_of_added(self) -> set[str]:
        return _pairs_of(self._added)

    @cached_property
    def _without_prefix(self) -> Tokenizer | None:
        """The tokenizer as it goes on inside a text; None where it starts one in the same way."""
        content = json.loads(json.dumps(self._content))
        content["normalizer"] = _goes_on(content["normalizer"])
        content["pre_tokenizer"] = _goes_on(content["pre_tokenizer"])
        if content == self._content:
            return None
        found = Tokenizer.from_str(json.dumps(content))
        found.encode_special_tokens = self._tokenizer.encode_special_tokens
        return found


def _goes_on(step: Any) -> Any:
    """A normaliser or pre-tokenizer, as its file says, without the space that it puts in front of a text."""
    if step is None or step["type"] == "Prepend":
        return None
    for parts in ("normalizers", "pretokenizers"):
        if parts in step:
            kept = [_goes_on(part) for part in step[parts]]
            step[parts] = [part for part in kept if part is not None]
    if step["type"] == "Metaspace":
        step["prepend_scheme"] = "never"
    if step["type"] == "ByteLevel":
        step["add_prefix_space"] = False
    return step


def _places(pattern: re.Pattern[str], text: str, earliest: int, latest: int) -> Iterator[int]:
    return (match.start() for match in pattern.finditer(text, max(1, earliest), latest))


def _is_sign(character: str) -> bool:
    """Whether it is punctuation, a symbol or a space, and no mark on the letter before it."""
    return unicodedata.category(character)[0] in "PSZ" or character in "\t\n\r"


def _pairs_of(pieces: Iterable[str]) -> set[str]:
    return {left + right for piece in pieces for left, right in pairwise(piece)}


def _encoded(tokenizer: Tokenizer, text: str) -> Encoding:
    return tokenizer.encode(text, add_special_tokens=False)
