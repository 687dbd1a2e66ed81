"""The current directory is where data lies: nothing in it is imported."""

import subprocess
import sys

_RUN_MAIN = """
import runpy, sys, types
stub = types.ModuleType("shear_lit.cli")
stub.main = lambda: print([path for path in sys.path if path.endswith("hostile")])
sys.modules["shear_lit.cli"] = stub
import shear_lit
sys.path[:] = [*{first}, *sys.path]
runpy.run_module("shear_lit", run_name="__main__")
"""


def main_with(first, **options):
    code = _RUN_MAIN.replace("{first}", repr(first))
    return subprocess.run(
        [sys.executable, *options.get("flags", ()), "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_current_directory_is_off_the_path_before_anything_is_imported(tmp_path):
    place = str(tmp_path / "hostile")
    assert main_with([place]) == "[]"
    # ... and with -P, which keeps it off, what is first is somebody's own.
    assert main_with([place], flags=["-P"]) == f"[{place!r}]"
