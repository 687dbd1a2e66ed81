"""Asking a judge about many pairs of answers; what it has said is kept, and not asked again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

from shear_lit.evaluation.answers.figures import Answers
from shear_lit.evaluation.answers.judge import Judge
from shear_lit.evaluation.answers.prompts import Prompts
from shear_lit.evaluation.answers.win_rate import Verdict, WinRate
from shear_lit.evaluation.compared import ComparedModel
from shear_lit.evaluation.suites.kept import KeptResults, Measured


def win_rates(
    prompts: Prompts,
    pairs: Sequence[tuple[ComparedModel, ComparedModel]],
    judge: Judge,
    kept: KeptResults,
) -> tuple[WinRate, ...]:
    """How often each second model of the ``pairs`` is preferred to the first.

    Raises:
        JudgeError: the judge cannot be asked.
    """
    found = []
    for first, other in pairs:
        assert first.answers is not None and other.answers is not None
        verdicts = judged(prompts, other.answers, first.answers, judge, kept)
        found.append(WinRate(model=other.name, against=first.name, judge=judge.model, verdicts=verdicts))
    return tuple(found)


def transcript(prompts: Prompts, models: Sequence[ComparedModel], rates: Sequence[WinRate]) -> str:
    """What was asked, what each model answered, and what the judge said: a JSON object a line."""
    lines = []
    for number, prompt in enumerate(prompts.prompts):
        answers = {model.name: model.answers.answers[number].text for model in models if model.answers}
        entry = {"messages": list(prompt.messages), "reference": prompt.reference, "answers": answers}
        if rates:
            entry["verdicts"] = [
                {"model": rate.model, "against": rate.against, **asdict(rate.verdicts[number])}
                for rate in rates
            ]
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    return "".join(lines)


def judged(
    prompts: Prompts, own: Answers, other: Answers, judge: Judge, kept: KeptResults
) -> tuple[Verdict, ...]:
    """What the judge says of each pair of answers, of which ``own`` is the model's whose wins count.

    Answers that are the same are a tie, of which nobody is asked.

    Raises:
        JudgeError: it cannot be asked.
    """
    found = []
    for prompt, mine, theirs in zip(prompts.prompts, own.answers, other.answers, strict=True):
        if mine.text == theirs.text:
            found.append(Verdict(own_first=0.5, own_second=0.5))
            continue
        asked = [judge.url, judge.model, list(prompt.messages), mine.text, theirs.text]
        place = Measured(
            model=hashlib.sha256(f"{judge.url} {judge.model}".encode()).hexdigest(),
            dtype="",
            task="judged",
            asked=hashlib.sha256(json.dumps(asked).encode()).hexdigest(),
            questions=1,
        )
        said = kept.read(place)
        if said is None:
            first = judge.prefers(prompt.messages, mine.text, theirs.text)
            second = judge.prefers(prompt.messages, theirs.text, mine.text)
            said = {"own_first": first, "own_second": None if second is None else 1 - second}
            kept.write(place, said)
        found.append(Verdict(**said))
    return tuple(found)
