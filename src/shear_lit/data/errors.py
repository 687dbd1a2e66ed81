"""The error a user's data mistake raises."""

from shear_lit.mistakes import Mistake


class DataError(Mistake):
    """Data, or a setting about data, that cannot be used as it is; the message says how to repair it."""


class DamagedData(DataError):
    """Prepared data that is not what its manifest says; the message names each file."""

    exit_code = 1
