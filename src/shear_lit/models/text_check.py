"""Whether a model can read a text that is there as token ids."""

from transformers import PretrainedConfig

from shear_lit.mistakes import Mistake


class TextError(Mistake):
    """A text that a model cannot read."""


def check_text(
    config: PretrainedConfig,
    *,
    model: str,
    text: str,
    vocabulary: int,
    sequence_length: int,
    key: str = "data.directory",
) -> None:
    """Refuse a text with tokens or lengths that a model has no place for, before any weight is read.

    Args:
        config: Config of the model.
        model: What the user calls it.
        text: What the user calls the text.
        vocabulary: Token ids of the text lie below this.
        sequence_length: Tokens of its longest sequence.
        key: Key that names the text.

    Raises:
        TextError: it has tokens or lengths that the model does not know.
    """
    if vocabulary > config.vocab_size:
        raise TextError(
            f"{text!r} holds token ids up to {vocabulary - 1}, and {model!r} knows {config.vocab_size}: the data was "
            f"made with another tokenizer. Prepare it with the model's.",
            key=key,
        )
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and sequence_length > longest:
        raise TextError(
            f"{text!r} has sequences of {sequence_length} tokens, and {model!r} takes at most {longest} "
            f"(max_position_embeddings): positions beyond were never trained. Prepare the data again with "
            f"sequence_length={longest} or less.",
            key=key,
        )
