"""Which versions are installed, and where they differ from the pins."""

import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import distributions, metadata, packages_distributions, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

VERSIONED = ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "faiss-gpu", "faiss-cpu", "bm25s")


@cache
def versions() -> dict[str, str]:
    """Installed versions of the packages that decide a number, and the commit of this code."""
    present = {str(canonicalize_name(one.name)): one.version for one in distributions()}
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:  # a machine without git
        commit = ""
    return {name: present[name] for name in VERSIONED if name in present} | {"commit": commit or "unknown"}


owners = cache(packages_distributions)
"""Import name → the distributions that install it; takes a second the first time."""


def installed(packages: Sequence[str]) -> dict[str, str]:
    """The installed version of each of these import names."""
    return {
        name: version(owners()[name][0]).partition("+")[0] if name in owners() else "not installed" for name in packages
    }


def licence(package: str) -> str:
    """The licence of an import name, as its distribution states it."""
    about = metadata(owners()[package][0])
    classes = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier", []) if c.startswith("License ::")]
    return about["License-Expression"] or ", ".join(classes) or "licence in its files"


def off_pins(packages: Sequence[str], requirements: Path) -> list[str]:
    """The import names whose version is not the one that `requirements` pins: `numpy 2.3.0 (pinned: 2.4.6)`."""
    lines = [line.partition("#")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    pinned = {canonicalize_name(one.name): str(one.specifier)[2:] for one in map(Requirement, filter(None, lines))}
    pins = {name: pinned.get(canonicalize_name(owners().get(name, [name])[0])) for name in packages}
    return [
        f"{name} {version} (pinned: {pins[name]})"
        for name, version in installed(packages).items()
        if pins[name] not in (None, version)
    ]
