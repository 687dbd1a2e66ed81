"""``python -m shear_lit`` is the console script ``shear-lit``."""

import sys

if __name__ == "__main__":
    # Python puts the current directory first, where a file called like a library would be imported in its place.
    # A user's own modules are found through PYTHONPATH, which stays.
    if not sys.flags.safe_path:
        del sys.path[0]
    from shear_lit.cli import main

    main()
