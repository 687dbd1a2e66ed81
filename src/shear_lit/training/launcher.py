"""A process that a launcher started does not outlive it."""

import os
import threading
import time

_STARTED_BY = "SHEAR_LIT_STARTED_BY"
"""The environment variable by which a process that Lightning starts knows the one that it was started from."""
_TORCHRUN = "TORCHELASTIC_RUN_ID"
_EVERY_SECONDS = 1.0


def end_with_launcher() -> None:
    """End this process when the launcher that started it is gone, which would end it; and so with those it starts.

    Until the processes have met, each waits for the others as long as for a reduction. A shell is no launcher: who logs
    out of it may want the run to go on.
    """
    starter = os.getppid()
    is_launched = os.environ.get(_STARTED_BY) == str(starter) or _TORCHRUN in os.environ
    os.environ[_STARTED_BY] = str(os.getpid())
    if not is_launched:
        return

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(_EVERY_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="launcher", daemon=True).start()
