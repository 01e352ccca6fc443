"""The results pack: what the notebooks from 05 on read of a complete run, in one file, so that nothing is trained.

`./run_all.sh docs pack` writes it, `./run_all.sh docs unpack` puts it into the store: systems, clusters, runs and
measures with their provenance, and with all their files but most of the large ones. The provenance names those left
out; the store knows of them, but never reads them. Of the collection, no text is packed, nor tokens, states or
vectors. Weights are packed as their difference from those that a student starts from, which is 0 in frozen layers.
"""

import json
import lzma
import os
import shutil
import tarfile
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from transformers.utils import logging

from tas_lib.config import Profile
from tas_lib.data import shipped, store
from tas_lib.experiment import Experiment
from tas_lib.retrieval import pretrained

KINDS = ("clusters", "following", "measured", "retrieved", "systems")
WEIGHTS = "model.safetensors"
STUDENTS = ("pairwise/random", "dual/tas_balanced", "tas_b")  # with weights; all others depend on the first
LISTS = ["bm25", "d2q", "pairwise/random", "in_batch/random", "{0}", "bm25+{0}", "d2q+{0}", "bm25>mono>duo", "bm25>cat",
         "{0}>mono>duo", "{0}>cat"]  # fmt: skip  # whose lists notebooks 12 and 13 read; {0} is the fused student


def pack(profile: Profile, target: Path) -> None:
    """Write what a run has stored; equal results give equal bytes. ValueError if a file has changed since."""
    lab, initial = Experiment(profile), _initial(profile)
    lab.scores(profile.systems)  # all measures are there, or made now
    known = lab.listed
    fused = "tas_b" if "tas_b" in known else "dual/tas_balanced"
    lists = [known[key] for key in (form.format(fused) for form in LISTS) if key in known]
    sets = ["stop", *(test.name for test in profile.evaluation.sets if test.graded)]
    whole = {f"systems/{known[key].name}" for key in STUDENTS if key in known}
    whole |= {f"retrieved/{system.name}/{name}" for system in lists for name in sets}
    with store.atomic_write(target, "wb") as f, tarfile.open(fileobj=f, mode="w:xz") as archive:
        notes = [note for kind in KINDS for note in (profile.folder / kind).rglob("provenance.json")]
        for folder in sorted(note.parent for note in notes):
            note, name = store.provenance(folder), str(folder.relative_to(profile.folder))
            if wrong := store.damaged(folder):
                raise ValueError(f"{name}: {wrong[0]}; a pack is made of a complete run")
            large = [n for n in note["files"] if n in (WEIGHTS, "vecs.npy") or n.endswith(".run.gz")]
            note["left_out"] = [] if name in whole else large
            files = {file: (folder / file).read_bytes() for file in note["files"] if file not in note["left_out"]}
            files["provenance.json"] = json.dumps(note, indent=1).encode()
            for file, data in sorted(files.items()):
                if file == WEIGHTS:  # first bytes of all 32-bit numbers, then second ones: exponents lie side by side
                    data = _differences(data, initial).reshape(-1, 4).T.tobytes()
                info = tarfile.TarInfo(f"{name}/{file}")
                info.size = len(data)
                archive.addfile(info, BytesIO(data))


def unpack(profile: Profile, packed: Path) -> None:
    """Put a pack beside what is in the store. ValueError if it is damaged or does not fit; then nothing is used."""
    lab, draft, initial = Experiment(profile), profile.folder / ".unpacked", _initial(profile)
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with tarfile.open(packed) as archive:
            archive.extractall(draft, filter="data")
    except (lzma.LZMAError, tarfile.TarError, EOFError) as error:
        raise ValueError(f"the results pack {packed.name} is damaged; `git checkout` brings it back") from error
    for path in draft.rglob(WEIGHTS):
        path.write_bytes(_differences(np.fromfile(path, np.uint8).reshape(4, -1).T.tobytes(), initial).tobytes())
    folders = [note.parent for note in draft.rglob("provenance.json")]
    if wrong := [folder for folder in folders if store.damaged(folder)]:
        raise ValueError(f"the results pack {packed.name} is damaged, or for other versions: {wrong[0].name}")
    baseline = Path("systems", lab.baseline.name)
    theirs, own = store.provenance(draft / baseline), profile.folder / baseline
    if theirs["inputs"]["collection"] != lab.collection.digest:
        raise ValueError("the results pack is of another collection, from other package versions")
    if theirs["inputs"]["pairs"] != store.digest(*lab.pairs):
        raise ValueError("the results pack is of other training pairs than those of this profile")
    if own.exists() and store.digest_of(own) != theirs["digest"]:
        raise ValueError(f"{profile.folder} holds your own trainings, which the results pack does not fit")
    for folder in folders:
        target = profile.folder / folder.relative_to(draft)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            os.replace(folder, target)
    shutil.rmtree(draft)


def _initial(profile: Profile) -> bytes:
    """The file of weights of a student before its first step."""
    with TemporaryDirectory() as folder:
        logging.disable_progress_bar()
        pretrained.load_dot(shipped.encoder(profile), profile.pooling).encoder.save_pretrained(folder)
        return Path(folder, WEIGHTS).read_bytes()


def _differences(data: bytes, initial: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8) ^ np.frombuffer(initial, np.uint8)
