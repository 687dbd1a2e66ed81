"""Jobs without a text to tokenise."""

from shear_lit.data.prepared.manifest import TokenizerRecord
from shear_lit.data.preparing.job import TextJob
from shear_lit.data.preparing.settings import PrepareSettings


def job_in(folder, *, vocabulary=60_000, **settings):
    """A job that works in ``folder``."""
    folder.mkdir(exist_ok=True)
    tokenizer = TokenizerRecord(name="none", fingerprint="f" * 64, vocabulary=vocabulary, bos_id=0, eos_id=1)
    options = PrepareSettings(
        domains={"web": "absent"}, tokenizer="none", output=str(folder / "out"), **settings
    )
    return TextJob(settings=options, tokenizer=tokenizer, work=folder)
