"""A few of the readers of a node; ``make corpus`` has 512."""

from tests.data.serving import readers


def test_readers_of_a_node_fetch_hash_and_look_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    results = readers.counted(tmp_path, readers=12, processes=3, sequences=20)
    assert readers.problems(results) == []
    remote, local = results["remote"][0], results["in place"][0]
    chunks = {"fetched": 12, "hashed": 12}
    assert {
        kind: sum(n for name, n in remote[kind].items() if name != "manifest.json") for kind in chunks
    } == chunks
    assert remote["fetched"]["manifest.json"] == 12
    assert sum(local["hashed"].values()) == 12 and sum(local["looked"].values()) == 12
