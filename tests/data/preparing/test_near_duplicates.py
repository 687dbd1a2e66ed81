"""Near duplicates are dropped by datatrove's four stages, and counted by domain."""

import random

import pytest

from shear_lit.data.errors import DataError

pytest.importorskip("datatrove")

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from shear_lit.data.preparing.near_duplicates import NearDuplicates

pytestmark = [
    # datatrove closes what it reads when it is collected, and its loguru writes to standard error.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


class Given(PipelineStep):
    """Gives documents, every second one to each of two tasks."""

    name, type = "given", "READER"

    def __init__(self, documents):
        super().__init__()
        self.documents = documents

    def run(self, data=None, rank=0, world_size=1):
        yield from self.documents[rank::world_size]


class Kept(PipelineStep):
    """Writes the names of the documents that come."""

    name, type = "kept", "WRITER"

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def run(self, data, rank=0, world_size=1):
        names = [document.id for document in data]
        (self.folder / f"kept-{rank}").write_text("\n".join(names))
        yield from ()


def words(seed, count=120):
    numbers = random.Random(seed)
    return ["".join(numbers.choices("etaoinshrdlu", k=6)) for _ in range(count)]


def documents():
    """Twenty documents, a copy of the first with one word changed, and one of the second with half of them."""
    found = [Document(" ".join(words(n)), str(n), metadata={"domain": "web"}) for n in range(20)]
    near, far = words(0), words(1)
    near[60], far[:60] = "changed", words(99, 60)
    copies = (" ".join(near).upper(), "near"), (" ".join(far), "far")
    return found + [Document(text, name, metadata={"domain": "copies"}) for text, name in copies]


def test_one_of_two_near_duplicates_is_dropped_and_counted(tmp_path):
    options = NearDuplicates(work=str(tmp_path / "work"), tasks=2)
    options.stages(Given(documents()), [Kept(tmp_path)])[-1].run()
    kept = {name for rank in (0, 1) for name in (tmp_path / f"kept-{rank}").read_text().split()}
    assert len(kept) == 21 and len(kept & {"0", "near"}) == 1 and {"1", "far"} <= kept
    assert options.dropped() in ({"copies": 1}, {"web": 1})


def test_the_probability_is_that_of_14_signatures_of_8_minima():
    options = NearDuplicates(work="none", tasks=1)
    assert options.probability(0.8) == pytest.approx(0.924, abs=1e-3)  # datatrove's own figure
    assert options.probability(1.0) == 1 and options.probability(0.0) == 0


def test_numbers_below_1_are_refused():
    with pytest.raises(DataError, match="1 or more"):
        NearDuplicates(work="none", tasks=0)
