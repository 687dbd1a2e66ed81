"""``shear-lit reference fit``: reference losses of a size that nobody has trained, from models of other sizes."""

from typing import TYPE_CHECKING

from shear_lit.disk.names import expanded
from shear_lit.disk.writing import check_new_file
from shear_lit.ranges import Count

if TYPE_CHECKING:
    from shear_lit.commands.fitting import FittedReferences


def fit(points: str, parameters: Count, output: str | None = None) -> "FittedReferences":
    """Fit L = c + a N^-b to the losses of at least three models, by domain, and write what it says of another size.

    The table says how sure each number is: its standard error and 95 % interval by bootstrap, and in words where a fit
    is exact, ill-posed, or continued more than four times beyond what was measured.

    Args:
        points: YAML file with `points`: a list of `{parameters: N, losses: {domain: nats per token}}`, each with
            `errors` (standard errors by domain) where they are known, as `shear-lit reference measure` writes them.
        parameters: The size that is asked for, without rounding, embeddings included.
        output: YAML file to write (references.yaml), besides printing it.
    """
    file = None if output is None else expanded(output)
    if file is not None:
        check_new_file(file, key="output", what="references")
    from shear_lit.commands.fitting import fit_references

    return fit_references(points, int(parameters), file)
