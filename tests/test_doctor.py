"""`redi doctor` says what is there and what is missing, and FAISS comes from one package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from redi.models.network import compiler
from redi.retrieval import builds
from redi.verbs.doctor import findings


def test_the_doctor_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "inception-2015-12-05.pt").touch()
    found = {line.about: line for line in findings(tmp_path)}
    assert "FID and KID" not in found["weights: inception"].missing
    assert found["weights: inception"].found.endswith("inception-2015-12-05.pt")
    assert found["weights: lpips"].missing.startswith("LPIPS: left out")
    assert "torch " in found["packages"].found
    assert found["FAISS"].missing == ""
    assert {"GPU", "GPU 0"} & set(found)
    assert bool(found["C++ compiler"].missing) == (compiler() is None)


def test_two_packages_of_faiss_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("faiss-cpu", "faiss-gpu-cu12"):
            return "1.14.1"
        raise PackageNotFoundError(name)

    monkeypatch.setattr(builds, "version", version)
    for cached in (builds.load_faiss, builds.faiss_build):
        cached.cache_clear()
    try:
        with pytest.warns(UserWarning, match="faiss-gpu-cu12 and faiss-cpu write over each other"):
            builds.load_faiss()
        assert "pip uninstall -y faiss-gpu-cu12 faiss-cpu" in builds.faiss_build().problem
    finally:
        builds.load_faiss.cache_clear()
        builds.faiss_build.cache_clear()
