"""What computes: packages with their versions, the commit of the code, the device."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

_PACKAGES = (
    "shear-lit",
    "torch",
    "lightning",
    "transformers",
    "litdata",
    "torchmetrics",
    "safetensors",
    "numpy",
)


def package_versions() -> dict[str, str | None]:
    """The versions of what decides numbers; None for a package that is not installed."""
    return {name: _version(name) for name in _PACKAGES}


def commit_of_code() -> str | None:
    """The commit of the code, where it runs from a checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


def device_name(device: torch.device) -> str:
    """What a device is, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()})"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
