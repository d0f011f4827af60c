"""The page on training does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tests.helpers.torchvision_shim  # noqa: F401  (Lightning and transformers import torchvision)

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_its_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == 5
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), namespace)
    assert (tmp_path / "run" / "checkpoint-00000240.safetensors").exists()
