"""``shear-lit prepare --bounds DIR``: data of an earlier version gets what it lacks."""


def write_bounds(bounds: str) -> str:
    """Write where documents begin beside the chunks of data that an earlier version prepared, by its BOS and EOS.

    Its tokens stay as they are, and checkpoints of runs on it can still be resumed.

    Args:
        bounds: Directory that an earlier version of `shear-lit prepare` wrote.
    """
    from shear_lit.data.preparing.bounds import write_bounds as write

    manifest = write(bounds)
    chunks = sum(len(r.chunks) for domain in manifest.domains.values() for r in domain.splits.values())
    return f"{bounds}: where documents begin is written beside {chunks:,} chunks"
