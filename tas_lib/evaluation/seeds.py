"""Further random seeds of the rows of a table: too many trainings for a default run, so their measures are shipped.

`./run_all.sh docs seeds` trains them, and writes `data/<profile>/seeds/`: every measure of every query.
"""

import json
import logging
from collections.abc import Mapping

import ir_measures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tas_lib.config import Profile
from tas_lib.data import shipped, store
from tas_lib.data.versions import versions
from tas_lib.evaluation.metrics import PerQuery

log = logging.getLogger(__name__)
FOLDER, FILE = "seeds", "measures.parquet"


def origin(profile: Profile, collection: str) -> dict[str, object]:
    """What the measures depend on. collection: its digest."""
    folders = (profile.artefacts_folder / name for name in ("encoder", "colbert", "scores"))
    brought = [store.folder_digest(folder) for folder in folders if folder.is_dir()]
    systems = {key: profile.decisive(system) for key, system in profile.seeds.items()}
    made = {"collection": collection, "models and scores": store.digest(*brought), "systems": systems}
    return dict(json.loads(json.dumps(made)))  # as `read` sees it


def write(profile: Profile, collection: str, measured: Mapping[str, Mapping[str, PerQuery]]) -> None:
    """Ship the measures of `Profile.seeds`: system → test set → measure → query → value."""
    lines = [
        (key, test, str(measure), query, value)
        for key, of_sets in measured.items()
        for test, of_measures in of_sets.items()
        for measure, values in of_measures.items()
        for query, value in values.items()
    ]
    names = ("system", "set", "measure", "query", "value")
    columns = dict(zip(names, zip(*lines, strict=True), strict=True))
    folder = profile.artefacts_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with store.atomic_write(folder / FILE, "wb") as f:
        pq.write_table(pa.table(columns | {"value": np.array(columns["value"], np.float32)}), f, compression="zstd")
    files = {FILE: store.file_digest(folder / FILE)}
    store.write_json(folder / "provenance.json", origin(profile, collection) | {"versions": versions(), "files": files})


def read(profile: Profile, collection: str) -> dict[str, dict[str, PerQuery]]:
    """What `write` wrote; {} if nothing is shipped, or under other settings, models or texts, which is logged.

    ValueError for a damaged file.
    """
    folder = profile.artefacts_folder / FOLDER
    if not profile.seeds or not folder.is_dir():
        return {}
    note = store.provenance(folder)
    if any(note.get(key) != value for key, value in origin(profile, collection).items()):
        log.info("the shipped seeds were trained with other settings, models or texts, and are not used")
        return {}
    found: dict[str, dict[str, PerQuery]] = {}
    columns = pq.read_table(shipped.folder(profile, FOLDER) / FILE).to_pydict()
    for key, test, measure, query, value in zip(*columns.values(), strict=True):
        of_set = found.setdefault(key, {}).setdefault(test, {})
        of_set.setdefault(ir_measures.parse_measure(measure), {})[query] = value
    return found
