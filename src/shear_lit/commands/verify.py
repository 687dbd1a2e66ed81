"""``shear-lit verify``: load a directory in the clients that people use, and compare what they compute."""

from typing import TYPE_CHECKING

from shear_lit.evaluation.clients.asking import ClientName

if TYPE_CHECKING:
    from shear_lit.commands.verification import Verification


def verify(
    directory: str,
    client: ClientName | None = None,
    python: str | None = None,
    against: str | None = None,
) -> "Verification":
    """Load a model in a client and compare its logits, 32 greedy tokens and token ids with those of transformers.

    Of a model with a chat template, it is seen whether generation stops where a turn ends.
    The reference is the transformers of this environment, in float32. A sliding window longer than the probe is
    shortened in a copy of the config, so that a client which gives it to other blocks is seen.
    Exit code 1 means that a client refuses the model or computes something else.

    Args:
        directory: The Hugging Face directory to load.
        client: What to load it with; every client that is installed by default.
        python: Interpreter of the environment that has the client; this one by default.
        against: Directory of the model whose logits are expected, if it is another: the source of a model that was
            mended, an export under another type.
    """
    from shear_lit.commands.verification import verify_model

    return verify_model(directory, client=client, python=python, against=against)
