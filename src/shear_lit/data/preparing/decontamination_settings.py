"""Which evaluation tasks text is held against: the settings, for which nothing heavy is imported."""

from dataclasses import dataclass, field

from shear_lit.data.errors import DataError
from shear_lit.ranges import Count, CountFrom0, as_plain_numbers


@dataclass(frozen=True, kw_only=True)
class DecontaminationSettings:
    """Evaluation tasks whose text is cut out of documents, by GPT-3's rule (arXiv:2005.14165, appendix C)."""

    files: list[str] = field(default_factory=list)
    """Questions of tasks, a path or a glob each: `.jsonl` and `.json`, of which `fields` are read; in `.txt` and `.md` each paragraph is one. May be compressed."""  # noqa: E501 (the help has no line breaks)
    fields: list[str] = field(default_factory=lambda: ["question", "text"])
    """Fields of a question, joined in this order; of a list all of its texts."""
    suites: list[str] = field(default_factory=list)
    """Suites of `shear-lit evaluate --suite`, such as `sheared-llama`, whose questions must be at hand: nothing is fetched for a task of the harness."""  # noqa: E501
    least_words: Count = 8
    """Words that a text has in common with a question at least: the 5th percentile of the lengths of a task's questions, within these bounds."""  # noqa: E501
    most_words: Count = 13
    """Upper bound of the same; with `least_words` 13, too, it is always 13."""
    most_documents: CountFrom0 = 10
    """What more documents have in common with questions is no contamination; 0: it is, and the text is read once instead of twice."""  # noqa: E501

    def __post_init__(self) -> None:
        if not 1 <= self.least_words <= self.most_words:
            raise DataError(
                f"{self.least_words}: the bounds are 1 or more, and least_words is at most "
                f"most_words={self.most_words}. Correct one of them.",
                key="decontaminate.least_words",
            )
        if (self.files or self.suites) and not (self.fields and all(self.fields)):
            raise DataError(
                f"{self.fields!r}: no field is read. Name those of the questions, such as ['question'].",
                key="decontaminate.fields",
            )
        as_plain_numbers(self)

    @property
    def asked(self) -> bool:
        """Whether there are tasks."""
        return bool(self.files or self.suites)
