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
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(source, draft, ignore=shutil.ignore_patterns("provenance.json"))
    for path in draft.glob("*.safetensors"):
        weights = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
        save_file(weights, path, {"format": "pt"})
    for path in draft.glob("config.json"):
        path.write_text(json.dumps(without_folders(store.read_json(path)), indent=2) + "\n", encoding="utf-8")
    files = {str(f.relative_to(draft)): store.file_digest(f) for f in sorted(draft.rglob("*")) if f.is_file()}
    note = {key: store.provenance(source)[key] for key in ("parameters", "inputs", "versions", "seconds")}
    store.write_json(draft / "provenance.json", note | {"measured": measured, "files": files})
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    log.info("shipped %s: %s", target.name, measured)


def without_folders(config: Any) -> Any:
    """A model's config without the folders, on this machine, that its parts were loaded from."""
    if not isinstance(config, dict):
        return config
    return {key: without_folders(value) for key, value in config.items() if key != "_name_or_path"}
