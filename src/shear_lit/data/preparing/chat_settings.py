"""What conversations to prepare, and how: the settings, for which nothing heavy is imported."""

from dataclasses import dataclass, field
from typing import Literal

from shear_lit.data.preparing.settings import CommonSettings, SplitShares
from shear_lit.ranges import UnitBytes

CONVERSATION_BYTES = 1 << 20
"""What a conversation may have by default: to tokenise it as a whole takes some 180 bytes for each of its own."""


@dataclass(frozen=True, kw_only=True)
class ChatSettings(CommonSettings):
    """What conversations to prepare, and how."""

    format: Literal["chat"] = "chat"
    """`chat`: records are conversations, and what the assistant says in them is learned. Without it they are text."""
    domains: dict[str, str | list[str]]
    """Conversations by domain: a path, a glob, one in S3 (`s3://`), `hf://name[:configuration[:split]]` of a Hugging Face data set, or a list of these; `.jsonl`, `.json`, `.csv`, `.parquet` and `.arrow`, which may be compressed. Records are OpenAI's (`messages` of `role` and `content`), ShareGPT's (`conversations` of `from` and `value`) or Alpaca's (`instruction`, `input`, `output`)."""  # noqa: E501 (the help has no line breaks)
    template: str = "tokenizer"
    """What makes a text of messages: `tokenizer`, the chat template that the tokenizer comes with; one of alpaca, chatml, gemma, llama-2, llama-3, mistral, sheared-llama, vicuna, zephyr; or a file whose name ends with `.jinja`."""  # noqa: E501
    variables: dict[str, bool | str] = field(default_factory=dict)
    """Values that the template is given besides, such as `{"enable_thinking": false}`."""
    allowed: list[str] = field(default_factory=list)
    """Special tokens and delimiters of the template that messages may have as text, such as `["</s>", "[INST]"]`, and never become special; a conversation with any other is rejected."""  # noqa: E501
    messages_field: str = ""
    """Field of each record that holds the messages; by default the one of its form."""
    shares: SplitShares = field(default_factory=lambda: SplitShares(prune=0, pretrain=0.95, validation=0.05))
    """Fractions of the conversations for stage 1, for training on them (`pretrain`), and for validation."""
    max_document_bytes: UnitBytes = CONVERSATION_BYTES
    """Larger conversations are unusable; it takes 180 bytes of memory for each byte to tokenise one."""
