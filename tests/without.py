"""A package that is not there, for code that looks for it."""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from typing import Any


class _Absent(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def hide_accelerate(set_attribute: Callable[[Any, str, Any], None] = setattr) -> None:
    """Take ``accelerate`` away, as in a plain install, also from what transformers has found out already."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "accelerate"]:
        del sys.modules[name]
    set_attribute(sys, "meta_path", [_Absent("accelerate"), *sys.meta_path])
    for module in [module for name, module in sys.modules.items() if name.startswith("transformers")]:
        if "is_accelerate_available" in vars(module):
            set_attribute(module, "is_accelerate_available", lambda *version: False)
