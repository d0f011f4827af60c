"""A family under Lightning learns what it learns under ``pliant.train``."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import tests.helpers.torchvision_shim  # noqa: F401  (Lightning's metrics import torchvision)
from pliant.checks import PliantError
from pliant.techniques.train.single_path import SinglePath
from pliant.training import Compute, Course, train
from tests.training.toy import batch, batches, loss, mlp, same, state

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]


def rows(data: Any) -> Any:
    return torch.utils.data.DataLoader(data, batch_size=None)


def loader(count: int = 8) -> Any:
    return rows([batch(k) for k in range(count)])


def trainer(folder: Path, **settings: Any) -> Any:
    import lightning.pytorch as pl

    return pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                      default_root_dir=str(folder), **({"enable_checkpointing": False} | settings))  # fmt: skip


def module(steps: int = 8, seed: int = 0, **compute: Any) -> Any:
    from pliant.training.lightning import FamilyModule

    return FamilyModule(Course(mlp(seed, dropout=0.0), loss, steps, compute=Compute(**compute)))


@pytest.mark.parametrize("compute", [{}, {"accumulate": 2}, {"precision": "bfloat16"}])
def test_the_weights_are_those_of_train(compute: dict[str, Any], tmp_path: Path) -> None:
    steps = 8 // compute.get("accumulate", 1)
    other = mlp(dropout=0.0)
    last = train(other, islice(batches(), 8), loss, steps=steps, compute=Compute(**compute))
    ours, runs = module(steps, **compute), trainer(tmp_path, max_epochs=5)
    runs.fit(ours, loader())
    assert runs.global_step == steps
    assert ours.progress == last
    assert float(runs.callback_metrics["loss"]) == pytest.approx(last.loss)
    assert same(state(ours.course.family), state(other))


def test_it_goes_on_from_lightnings_checkpoint(tmp_path: Path) -> None:
    whole = mlp(dropout=0.0)
    train(whole, [batch(k) for k in (0, 1, 2, 3)] * 2, loss, steps=8)
    first = trainer(tmp_path, max_epochs=1, enable_checkpointing=True)
    first.fit(module(), loader(4))
    assert first.global_step == 4
    ours, runs = module(seed=5), trainer(tmp_path, max_epochs=2)
    runs.fit(ours, loader(4), ckpt_path=first.checkpoint_callback.best_model_path)
    assert ours.progress.step == runs.global_step == 8
    assert same(state(ours.course.family), state(whole))
    other = module()
    other.recipe = SinglePath()
    with pytest.raises(PliantError, match=r"of a run with recipe \w+\(.*, this run has recipe SinglePath\("):
        trainer(tmp_path, max_epochs=3).fit(other, loader(4), ckpt_path=first.checkpoint_callback.best_model_path)


def test_what_lightning_would_do_to_one_network_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PliantError, match=r"under Lightning use Compute\(precision='bfloat16'\)"):
        module(precision="float16")
    with pytest.raises(PliantError, match=r"Trainer\(precision='bf16-mixed'\) would not reach every member"):
        trainer(tmp_path, max_steps=1, precision="bf16-mixed").fit(module(), loader())
