"""The error a user's data mistake raises."""


class DataError(ValueError):
    """Data, or a setting about data, that cannot be used as it is; the message says how to repair it."""


class DamagedData(DataError):
    """Prepared data that is not what its manifest says; the message names each file."""

    exit_code = 1
