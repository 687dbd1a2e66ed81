"""``shear-lit prepare --format chat``: conversations to prepared data."""

from typing import Any

from shear_lit.commands.prepare import run_stage
from shear_lit.data.preparing.chat_settings import ChatSettings
from shear_lit.data.preparing.settings import Stage


def prepare_chat(stage: Stage = "all", part: str = "", **settings: Any) -> None:
    """Turn conversations into prepared data, of which the assistant's tokens are to be predicted.

    A chat template makes a text of each. It is packed whole where it fits into a sequence, and cut where a question
    begins where it does not. Text that imitates the template is rejected with its file and line.

    Args:
        stage: `all`, or one of its stages, which machines that share the output do one after the other: `tokenise` in
            parts, `select`, `pack` in parts, `commit`; the other keys are the same for all of them.
        part: Which part of the stage `tokenise` or `pack` is done here: `3/8`, the third of eight, from `1/8` to `8/8`;
            by default all of it.
        settings: What is prepared, and how.
    """
    options = ChatSettings(**settings)
    run_stage(options, stage, part)
