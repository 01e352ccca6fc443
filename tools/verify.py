"""Compare every file of a profile with the digest recorded when it was made: ./run_all.sh --verify [profile].

A run compares sizes, and digests of shipped files only: reading every byte takes long. An artefact that has changed
counts as not made from here on, so the next run makes it again, and all notebooks, which may show what it held.
"""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from tas_lib.config import Profile
from tas_lib.data import shipped, store


def main(profile: Profile) -> int:
    """Print what has changed; the exit status: 0 if nothing has."""
    every = artefacts(profile.folder)
    kept = [folder for folder in every if "sha256" in _note(folder)]
    if len(kept) < len(every):
        print(f"{len(every) - len(kept)} artefacts are not compared: they are older than the digests of files")
    changed = {folder: wrong for folder in tqdm(kept, "Artefacts", leave=False) if (wrong := store.damaged(folder))}
    for folder, wrong in changed.items():
        users = _made_from(folder, [other for other in kept if other not in changed])
        print(f"{_name(folder, profile)}: {'; '.join(wrong)}")
        if users:
            print(f"  made from it earlier, and kept: {', '.join(_name(other, profile) for other in users)}")
    for folder in changed:
        (folder / "provenance.json").unlink()
    for notebook in (profile.folder / "notebooks").glob("*.ipynb") if changed else ():
        notebook.unlink()
    lost = [*_shipped(profile)]
    print(*lost, sep="\n", end="\n" if lost else "")
    if changed or lost:
        print(f"{len(changed)} of {len(kept)} artefacts of {profile.name} have changed; the next run makes them again")
        return 1
    print(f"All {len(kept)} artefacts of {profile.name}, and its shipped files, are unchanged.")
    return 0


def artefacts(root: Path) -> list[Path]:
    """The complete artefacts in a profile's folder; drafts are hidden."""
    notes = sorted(root.rglob("provenance.json"))
    return [note.parent for note in notes if not any(part.startswith(".") for part in note.relative_to(root).parts)]


def _name(folder: Path, profile: Profile) -> str:
    return str(folder.relative_to(profile.folder))


def _note(folder: Path) -> dict[str, Any]:
    try:
        return store.provenance(folder)
    except ValueError:  # which counts as damage
        return {"sha256": {}}


def _made_from(folder: Path, others: list[Path]) -> list[Path]:
    """Those whose inputs include this artefact."""
    digest = _note(folder).get("digest")
    return [other for other in others if digest in _note(other).get("inputs", {}).values()]


def _shipped(profile: Profile) -> list[str]:
    """What is wrong with the shipped files of a profile, a sentence per folder."""
    wrong = []
    for note in sorted(profile.artefacts_folder.glob("*/provenance.json")):
        try:
            shipped.folder(profile, note.parent.name)
        except ValueError as error:
            wrong.append(str(error))
    return wrong
