"""What models make of prompts: how likely they find the references, and what they answer themselves."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from shear_lit.data.serving.batch import DomainBatch
from shear_lit.evaluation.answers.figures import Answer, Answers
from shear_lit.evaluation.answers.prompts import KEY, PromptError, Prompts
from shear_lit.evaluation.chat_format import ChatFormat, read_chat_format
from shear_lit.evaluation.document_loss import DocumentLosses
from shear_lit.evaluation.domain_loss import measure_domain_losses
from shear_lit.evaluation.suites.kept import KeptResults, Measured
from shear_lit.evaluation.suites.subject import model_fingerprint
from shear_lit.mistakes import Mistake
from shear_lit.models.answering import Sampling, write_answer
from shear_lit.models.huggingface import read_config


@dataclass(frozen=True, kw_only=True)
class Told:
    """Prompts as one model is told them."""

    chat: ChatFormat
    """How it is."""
    prompts: tuple[tuple[int, ...], ...]
    """The tokens that an answer follows."""
    answered: tuple[tuple[tuple[int, ...], tuple[bool, ...]], ...]
    """Those with the reference behind them, and which are the reference's."""

    def batches(self) -> Iterator[DomainBatch]:
        """One prompt after the other, with its reference, whose tokens alone are predicted."""
        for number, (tokens, learned) in enumerate(self.answered):
            yield {
                "tokens": torch.tensor([tokens]),
                "domain": torch.tensor([0]),
                "micro_batch": 0,
                "document": torch.full((1, len(tokens)), number),
                "loss_mask": torch.tensor([learned]),
            }


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Prompts, as each of several models is told them."""

    prompts: Prompts
    """What is asked."""
    told: Mapping[str, Told]
    """By the place of the model."""
    new_tokens: int
    """Tokens of an answer at most."""

    def answers(self, place: str, dtype: str, kept: KeptResults, network: Callable[[], Any]) -> Answers:
        """What a model makes of them; what was measured before is read, otherwise ``network`` reads the model."""
        told = self.told[place]
        asked = [
            self.prompts.fingerprint,
            self.new_tokens,
            told.prompts,
            told.answered,
            sorted(told.chat.ends),
        ]
        measured = Measured(
            model=model_fingerprint(place),
            dtype=dtype,
            task="answers",
            asked=hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
            questions=len(self.prompts.prompts),
        )
        found = kept.read(measured)
        if found is None:
            answers = self._measured(network(), told)
            kept.write(
                measured,
                {
                    "references": answers.references.tolist(),
                    "answers": [asdict(each) for each in answers.answers],
                },
            )
            return answers
        return Answers(
            references=np.array(found["references"]),
            answers=tuple(Answer(**each) for each in found["answers"]),
        )

    def _measured(self, network: Any, told: Told) -> Answers:
        documents = DocumentLosses()
        measure_domain_losses(network, told.batches(), ("references",), documents)
        sizes = [len(prompt.reference.encode()) for prompt in self.prompts.prompts]
        documents.know_bytes(0, np.array(sizes, dtype=np.float64))
        network.eval()
        answers = tuple(self._answer(network, told.chat, asked) for asked in told.prompts)
        return Answers(references=documents.by_document(0), answers=answers)

    def _answer(self, network: Any, chat: ChatFormat, asked: Sequence[int]) -> Answer:
        """The most probable answer."""
        greedy = Sampling(temperature=0.0, max_new_tokens=self.new_tokens)
        tokens = write_answer(network, asked, greedy, ends=chat.ends)
        text = chat.tokenizer.backend.decode(tokens, skip_special_tokens=True).strip()
        ended = len(tokens) < self.new_tokens or (bool(tokens) and tokens[-1] in chat.ends)
        return Answer(text=text, tokens=len(tokens), ended=ended)


def open_questions(prompts: Prompts, places: Sequence[str], *, new_tokens: int) -> Questions:
    """The prompts as each model is told them, before any weight is read.

    Raises:
        PromptError: one cannot be expressed by the template of a model, or is too long for it.
        DataError: a model has no tokenizer, or no template.
    """
    told = {place: _told(prompts, place, new_tokens) for place in places}
    return Questions(prompts=prompts, told=told, new_tokens=new_tokens)


def _told(prompts: Prompts, place: str, new_tokens: int) -> Told:
    chat = read_chat_format(place)
    longest = getattr(read_config(place, for_training=False), "max_position_embeddings", None)
    found, answered = [], []
    for prompt in prompts.prompts:
        where = f"{prompts.file!r}, line {prompt.line}"
        try:
            asked, whole = chat.prompt(prompt.messages), chat.answered(prompt.messages, prompt.reference)
        except Mistake as error:
            raise PromptError(f"{where}: {error}", key=KEY) from error
        most = max(len(asked) + new_tokens, len(whole[0]))
        if longest is not None and most > longest:
            raise PromptError(
                f"{where}: with its answer it has up to {most:,} tokens, and {place} was made for {longest:,}. "
                f"Shorten it, or use a smaller max_new_tokens.",
                key=KEY,
            )
        found.append(tuple(asked))
        answered.append((tuple(whole[0]), tuple(whole[1])))
    return Told(chat=chat, prompts=tuple(found), answered=tuple(answered))
