"""``shear-lit prepare --format chat``: conversations to prepared data."""

import logging
from typing import Any

from shear_lit.data.preparing.chat_settings import ChatSettings

_log = logging.getLogger(__name__)


def prepare_chat(**settings: Any) -> None:
    """Turn conversations into prepared data, of which the assistant's tokens are to be predicted.

    A chat template makes a text of each. It is packed whole where it fits into a sequence, and cut where a question
    begins where it does not. Text that imitates the template is rejected with its file and line.
    """
    options = ChatSettings(**settings)
    from shear_lit.data.preparing.prepare import prepare as prepare_data
    from shear_lit.data.preparing.reporting import summary

    manifest = prepare_data(options)
    _log.info("%s\n%s", options.output, summary(manifest))
