"""MDS folders written by their documented layout, so that the tests need no other package."""

import bz2
import gzip
import hashlib
import json

import numpy as np

ENCODINGS = {"tokens": "bytes", "set": "str"}


def encoded(sample, columns):
    values = [v if isinstance(v, bytes) else v.encode() for v in (sample[name] for name in columns)]
    sizes = np.array([len(value) for value in values], dtype="<u4")
    return sizes.tobytes() + b"".join(values)


def shard_bytes(samples, columns):
    config = json.dumps({"column_names": sorted(columns)}).encode()
    bodies = [encoded(sample, sorted(columns)) for sample in samples]
    first = 4 * (len(samples) + 2) + len(config)
    offsets = first + np.cumsum([0, *map(len, bodies)])
    head = np.array([len(samples)], dtype="<u4").tobytes() + offsets.astype("<u4").tobytes()
    return head + config + b"".join(bodies)


def compressed(content, how):
    if how.startswith("zstd"):
        import zstandard

        return zstandard.ZstdCompressor().compress(content)
    return gzip.compress(content) if how == "gz" else bz2.compress(content)


def file_entry(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {
        "basename": path.name,
        "bytes": len(content),
        "hashes": {"sha1": hashlib.sha1(content).hexdigest()},
    }


def write_mds(folder, samples, *, per_shard=4, columns=ENCODINGS, how=None):
    """Write samples as LLM-Shearing's ``MDSWriter`` would."""
    shards = []
    for number, first in enumerate(range(0, len(samples), per_shard)):
        part = samples[first : first + per_shard]
        content, name = shard_bytes(part, columns), f"shard.{number:05d}.mds"
        raw = file_entry(folder / name, content)
        entry = {
            "column_encodings": [columns[c] for c in sorted(columns)],
            "column_names": sorted(columns),
            "column_sizes": [None] * len(columns),
            "compression": how,
            "format": "mds",
            "hashes": ["sha1"],
            "raw_data": raw,
            "samples": len(part),
            "size_limit": 1 << 26,
            "version": 2,
            "zip_data": None,
        }
        if how:
            (folder / name).unlink()
            entry["zip_data"] = file_entry(folder / f"{name}.{how.split(':')[0]}", compressed(content, how))
        shards.append(entry)
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))
    return folder


def sample(domain, number, *, length=4, named=True):
    """The packed sequence [domain, number, 0, …]."""
    tokens = np.array([domain, number] + [0] * (length - 2), dtype=np.uint16)
    return {"tokens": tokens.tobytes()} | ({"set": "ab"[domain]} if named else {})
