"""Make .venv from requirements.txt where it is missing, half made or stale. Standard library only: it runs first.

The stamp in .venv is written last and holds what the environment was made from: this folder and requirements.txt.
"""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "stamp"


def wanted():
    """What the stamp of a good environment says; the folder counts, for scripts and paths in .venv hold it."""
    return f"{ROOT}\n{(ROOT / 'requirements.txt').read_text(encoding='utf-8')}"


def stale():
    """Why .venv must be made, or None."""
    if not VENV.exists():
        return "there is none yet"
    if not STAMP.exists():
        return "it was left half made"
    if STAMP.read_text(encoding="utf-8") != wanted():
        return "requirements.txt has changed, or this folder was moved"
    if subprocess.run([PYTHON, "-c", ""], check=False).returncode:
        return "its Python does not start any more"
    return None


def pip(*arguments):
    """Install with the environment's own pip; its progress bars only where somebody watches."""
    quiet = [] if sys.stdout.isatty() else ["-qq"]
    subprocess.run([PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *quiet, *arguments], check=True)


def make():
    """A new .venv; notebooks, JupyterLab and papermill find tas_lib through one line in its site-packages."""
    shutil.rmtree(VENV, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    pip("--requirement", ROOT / "requirements.txt")
    where = [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
    (site / "tas_lib.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    STAMP.write_text(wanted(), encoding="utf-8")


def main():
    """Make .venv if need be; two starts at once wait for each other."""
    if sys.version_info < (3, 11):  # noqa: UP036
        have = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"Python 3.11 or newer is needed, and this is {have}; name another: PYTHON=python3.12 ./run_all.sh")
    with open(ROOT / "requirements.txt", encoding="utf-8") as shared:
        fcntl.flock(shared, fcntl.LOCK_EX)
        why = stale()
        if why is None:
            return
        print(f"Setting up .venv ({why}): two minutes, or as long as downloading PyTorch takes.", flush=True)
        try:
            make()
        except (subprocess.CalledProcessError, OSError) as error:
            sys.exit(f"The set-up of .venv stopped ({error}); started again, it begins anew.")


if __name__ == "__main__":
    main()
