"""``python -m shear_lit`` is the console script ``shear-lit``."""

from shear_lit.cli import main

if __name__ == "__main__":
    main()
