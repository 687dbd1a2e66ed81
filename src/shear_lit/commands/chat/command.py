"""``shear-lit chat``: talk to one or several models, or have another program's server answer for one."""

import sys
from typing import TYPE_CHECKING, Literal

from shear_lit.commands.failures import UsageError
from shear_lit.models.choices import Device, Precision
from shear_lit.ranges import Count, CountFrom0, NumberFrom0, PositiveFraction, PositiveNumber

if TYPE_CHECKING:
    from shear_lit.commands.chat.terminal import Left


def chat(
    models: list[str],
    system: str | None = None,
    temperature: NumberFrom0 | None = None,
    top_p: PositiveFraction | None = None,
    top_k: Count | None = None,
    repetition_penalty: PositiveNumber | None = None,
    max_new_tokens: Count = 512,
    seed: CountFrom0 = 17,
    template: str | None = None,
    dtype: Literal["source"] | Precision = "float32",
    device: Device = "auto",
    serve: bool = False,  # noqa: FBT001, FBT002  (a key of the command line)
    port: int = 8000,
) -> "Left | None":
    """Talk to tuned models: each answers what you type, one below the other, and remembers what it has said.

    At a terminal: /reset forgets the conversation, /system TEXT begins one under an instruction, Ctrl-C ends an answer,
    and twice the program. Through a pipe each line is a prompt of its own, and its answer is one line.
    What you type is text: it never becomes one of the special tokens that it may look like.

    Args:
        models: Hugging Face directories, or hub names, of models with a chat template.
        system: Instruction that conversations begin with.
        temperature: What logits are divided by; 0: always the most probable token; null, here and below: what the
            model's generation settings say.
        top_p: Draw from the most probable tokens, so many as have this probability together.
        top_k: Draw from so many of the most probable tokens.
        repetition_penalty: What makes tokens that are there already less probable; 1: nothing.
        max_new_tokens: Tokens of an answer at most.
        seed: What draws depend on; the same one gives the same answers.
        template: Name of a built-in chat template in place of the models' own; see docs/tune.md.
        dtype: What to compute in; `source`: what the weights are stored in.
        device: Where to compute; `auto`: a CUDA device if there is one, otherwise the CPU.
        serve: Hand over to `transformers serve`: an OpenAI-compatible server on this machine alone, for one model.
        port: Port of 127.0.0.1 that it listens at.
    """
    if len(set(models)) < len(models) or not models:
        raise UsageError(f"models={list(models)}: each is named once, and there is at least one. Correct it.")
    if serve:
        given = {
            "system": system,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "repetition_penalty": repetition_penalty,
            "template": template,
        }
        if without_effect := [name for name, value in given.items() if value is not None]:
            raise UsageError(
                f"{without_effect[0]} has no effect with serve: each request says its own. Remove it, or leave "
                f"serve out."
            )
        from shear_lit.commands.chat.server import hand_over

        hand_over(models, port=port, dtype=dtype, device=device)
        return None
    from shear_lit.commands.chat.piped import answer_lines
    from shear_lit.commands.chat.speaker import open_speakers
    from shear_lit.commands.chat.terminal import talk
    from shear_lit.models.answering import Sampling

    sampling = Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    speakers = open_speakers(models, sampling, template=template, system=system, dtype=dtype, device=device)
    if sys.stdin.isatty():
        return talk(speakers, system)
    answer_lines(speakers, system)
    return None
