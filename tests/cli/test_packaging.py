"""The command works from a wheel in another folder and as `python -m permlab` in a bare checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_wheel_in_another_folder(tmp_path, environment):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", "outputs", "__pycache__", "*.egg-info", "build", "dist")
    shutil.copytree(ROOT, source, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run(build, check=True, timeout=180, capture_output=True)
    wheel = next(tmp_path.glob("permlab-*.whl"))
    target = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, timeout=120)
    here = tmp_path / "elsewhere"
    here.mkdir()
    env = {**environment, "PYTHONPATH": str(target)}
    shown = subprocess.run(
        [sys.executable, "-c", "import permlab; print(permlab.__file__)"],
        cwd=here,
        env=env,
        capture_output=True,
        text=True,
    )
    assert str(target) in shown.stdout
    done = subprocess.run(
        [str(target / "bin" / "permlab"), "run.dry_run=true"], cwd=here, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "one-block-llama" in done.stdout
    assert contents(target / "permlab") == contents(ROOT / "permlab") | contents(ROOT / "conf", Path("conf"))


def contents(folder: Path, prefix: Path = Path()) -> set[str]:
    """Return the files that belong into a wheel, relative to the package."""
    return {
        str(prefix / path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith(".")
    }


@pytest.mark.slow
def test_bare_checkout(tmp_path, environment):
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "permlab", checkout / "permlab", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", checkout / "conf")
    done = subprocess.run(
        [sys.executable, "-m", "permlab", "run.dry_run=true"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "one-block-llama" in done.stdout
