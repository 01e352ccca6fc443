"""Copy a finished artefact of the store to `data/<profile>/`."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tas_lib.data import store

log = logging.getLogger(__name__)


def ship(source: Path, target: Path, measured: dict[str, Any]) -> None:
    """Copy an artefact to `target`, weights as fp16, with a provenance that names every digest."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("provenance.json"))
    for path in target.glob("*.safetensors"):
        weights = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
        save_file(weights, path, {"format": "pt"})
    for path in target.glob("config.json"):
        config = json.loads(path.read_text(encoding="utf-8"), object_hook=without_folder)
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    files = {str(f.relative_to(target)): store.file_digest(f) for f in sorted(target.rglob("*")) if f.is_file()}
    note = {key: store.provenance(source)[key] for key in ("parameters", "inputs", "versions", "seconds")}
    store.write_json(target / "provenance.json", note | {"measured": measured, "files": files})
    log.info("shipped %s: %s", target.name, measured)


def without_folder(config: dict[str, Any]) -> dict[str, Any]:
    """A model's config without the folder, on this machine, that it was loaded from."""
    return {key: value for key, value in config.items() if key != "_name_or_path"}
