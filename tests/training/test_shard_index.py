"""An index of shards is read by unpickling: it must not be able to run anything."""

import pickle

import pytest
import torch
import torch.distributed.checkpoint as sharded

from shear_lit.training.checkpoints import CheckpointError, read_checkpoint, read_facts
from shear_lit.training.shard_index import INDEX, read_index
from tests.bad_inputs.checkpoints import RunsCode

# One process is what these tests ask for.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def shards(tmp_path):
    directory = tmp_path / "step=000001"
    state = {"weight": torch.ones(3), "half": torch.ones(2, dtype=torch.bfloat16), "group": {"rate": 0.1}}
    sharded.save(state, checkpoint_id=directory, no_dist=True)
    return directory


def test_index_that_torch_wrote_is_accepted(shards):
    read_index(shards, None)


def test_index_that_would_run_code_is_refused_and_does_not_run(shards, tmp_path):
    made = tmp_path / "made"
    (shards / INDEX).write_bytes(pickle.dumps(RunsCode(made)))
    with pytest.raises(pickle.UnpicklingError, match="mkdir has no place in an index"):
        read_index(shards, None)
    assert not made.exists()
    pickle.loads((shards / INDEX).read_bytes())  # noqa: S301 (the twin: reading without the check)
    assert made.exists()


@pytest.mark.parametrize("read", [read_checkpoint, read_facts])
def test_checkpoint_with_such_an_index_is_refused(read, shards, tmp_path):
    made = tmp_path / "made"
    (shards / INDEX).write_bytes(pickle.dumps(RunsCode(made)))
    torch.save({}, shards / "meta.pt")
    with pytest.raises(CheckpointError, match="no place in an index"):
        read(shards)
    assert not made.exists()
