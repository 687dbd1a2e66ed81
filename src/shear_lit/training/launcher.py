"""A process that a launcher started does not outlive it."""

import os
import threading
import time

_EVERY_SECONDS = 1.0


def end_with_launcher() -> None:
    """End this process when the one that started it is gone, if that is a launcher, which would end it.

    Until the processes have met, each waits for the others as long as for a reduction.
    """
    launcher = os.getppid()
    if "LOCAL_RANK" not in os.environ:
        return

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(_EVERY_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="launcher", daemon=True).start()
