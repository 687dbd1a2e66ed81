"""A corpus of odd and hostile files, each with what must come of it: documents, rejects, or one line of refusal."""

from tests.data.text.corpus_tables import ARRAYS, ROWS
from tests.data.text.corpus_text import COMPRESSED, JSON_FILES, LINES, TEXTS

CORPUS = [*LINES, *JSON_FILES, *COMPRESSED, *TEXTS, *ROWS, *ARRAYS]
