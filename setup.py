"""What pyproject.toml cannot say: a wheel holds the repository's configs/ as shear_lit/configs/."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies configs/ beside the modules; an editable installation reads them where they are."""

    def run(self) -> None:
        """Build the package, then add the files."""
        super().run()
        if not self.editable_mode:
            shutil.copytree("configs", Path(self.build_lib) / "shear_lit" / "configs", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
