"""A family under Hugging Face's Trainer learns what it learns under ``pliant.train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tests.helpers.torchvision_shim  # noqa: F401  (transformers imports torchvision)
from pliant.checks import CorruptFileError, PliantError, WrongShapeError
from pliant.family import Family
from pliant.technique import Recipe
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.single_path import SinglePath
from pliant.training import Compute, Course, train
from tests.training.test_loop import Stopped
from tests.training.toy import Mlp, batch, loss, same, state

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]
STEPS = 6


def family(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return Family(Mlp(0.0), (), [Width(multiple=4)], {"x": torch.randn(4, 8)})


class Rows(torch.utils.data.Dataset[Any]):
    """The examples of the toy's batches, one after the other."""

    def __init__(self, count: int = STEPS) -> None:
        self.count = count

    def __len__(self) -> int:
        return 6 * self.count

    def __getitem__(self, k: int) -> dict[str, Any]:
        x, y = batch(k // 6)
        return {"x": x[k % 6], "labels": y[k % 6]}


def trained_in_order(folder: Path, seed: int, count: int) -> Any:
    """A family after ``count`` batches of examples, which processes share among them."""
    runs = trainer(folder, seed, rows=Rows(count))
    runs.train()
    return runs.course.family


def trainer(
    folder: Path, seed: int = 0, compute: Any = None, recipe: Any = None, rows: Any = None, **settings: Any
) -> Any:
    import transformers

    from pliant.training.hf import FamilyTrainer

    class InOrder(FamilyTrainer):
        def _get_train_sampler(self, *args: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    plain: dict[str, Any] = {"per_device_train_batch_size": 6, "num_train_epochs": 1, "learning_rate": 1e-3,
                             "weight_decay": 0.0, "lr_scheduler_type": "constant", "save_strategy": "no",
                             "report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 0}  # fmt: skip
    args = transformers.TrainingArguments(str(folder), **(plain | settings))
    course = Course(family(seed), loss, compute=compute or Compute())
    return InOrder(course, recipe, args=args, train_dataset=rows or Rows())


def reference(recipe: Any = None, **compute: Any) -> Any:
    other = family()
    last = train(other, [({"x": x}, y) for x, y in map(batch, range(STEPS))], loss, recipe=recipe, warmup=0,
                 steps=STEPS // compute.get("accumulate", 1), schedule=lambda done: 1.0, compute=Compute(**compute),
                 optimizer=torch.optim.AdamW(other.parameters(), lr=1e-3, weight_decay=0.0))  # fmt: skip
    return other, last


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [({}, {}), ({"gradient_accumulation_steps": 2}, {"accumulate": 2}), ({}, {"precision": "bfloat16"})],
)
def test_the_weights_are_those_of_train(ours: dict[str, Any], theirs: dict[str, Any], tmp_path: Path) -> None:
    other, last = reference(**theirs)
    compute = Compute(precision=theirs.get("precision", "float32"))
    runs = trainer(tmp_path, compute=compute, **ours)
    runs.train()
    assert runs.state.global_step == last.step
    assert runs.progress.learnt == last.learnt
    assert runs.progress.loss == pytest.approx(last.loss, rel=1e-5)
    for name, value in state(runs.course.family).items():
        assert torch.allclose(value, state(other)[name], atol=1e-6), name
    told = runs.evaluate(Rows())
    with torch.no_grad():
        losses = [float(loss(runs.course.family.model(x), y)) for x, y in map(batch, range(STEPS))]
    assert told["eval_loss"] == pytest.approx(sum(losses) / STEPS, rel=1e-4)


class Counts(Recipe):
    """Remembers how often it was asked, and learns less each time."""

    def step(self, turn: Any) -> None:
        turn.memory["count"] = turn.memory.get("count", torch.zeros(())) + 1
        turn.learn(turn.space.largest(), weight=1 / float(turn.memory["count"]))
        turn.update()
        turn.rate = 0.5
        turn.learn(turn.space.smallest())


def test_it_goes_on_from_the_trainers_checkpoint(tmp_path: Path) -> None:
    import transformers

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                raise Stopped

    other, _ = reference(Counts())
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "recipe": Counts()}
    first = trainer(tmp_path, **saving)
    first.add_callback(Stop)
    with pytest.raises(Stopped):
        first.train()
    runs = trainer(tmp_path, seed=7, **saving)
    runs.train(resume_from_checkpoint=True)
    assert float(runs.course.memory["count"]) == STEPS
    for name, value in state(runs.course.family).items():
        assert torch.allclose(value, state(other)[name], atol=1e-6), name
    with pytest.raises(PliantError, match=r"a run with recipe .*Counts object>, this run has recipe SinglePath\("):
        trainer(tmp_path, **saving | {"recipe": SinglePath()}).train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-4" / "pliant.safetensors").write_bytes(b"broken")
    with pytest.raises(CorruptFileError, match="checkpoint-4.*go on from another checkpoint"):
        trainer(tmp_path, **saving).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"bf16": True}, r"arguments with \['bf16'\]"),
        ({"gradient_checkpointing": True}, r"arguments with \['gradient_checkpointing'\]"),
        ({"compute": Compute(accumulate=2)}, r"accumulate=2.*nothing in the way"),
        ({"compute": Compute(precision="float16")}, r"float32 or bfloat16"),
    ],
)
def test_what_would_reach_one_member_alone_is_refused(settings: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(PliantError, match=text):
        trainer(tmp_path, **settings)


def test_batches_without_labels() -> None:
    from pliant.training.hf import by_labels

    assert by_labels({"a": 1, "labels": 2}) == ({"a": 1}, 2)
    with pytest.raises(WrongShapeError, match=r"needs 'labels' beside \['a', 'b'\]"):
        by_labels({"b": 1, "a": 2})


def test_a_network_of_transformers(tmp_path: Path) -> None:
    """Outputs in its own container, labels split off, a step that changes every member."""
    import transformers

    from pliant.training.hf import FamilyTrainer

    kind: Any = transformers.BertConfig
    config = kind(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                                     vocab_size=20, max_position_embeddings=8, num_labels=3)  # fmt: skip
    torch.manual_seed(0)
    net: nn.Module = transformers.BertForSequenceClassification(config)
    example = {"input_ids": torch.randint(0, 20, (4, 6)), "attention_mask": torch.ones(4, 6, dtype=torch.long)}
    bert = Family(net, (), [Width(multiple=8)], example)
    rows = [{"input_ids": torch.randint(0, 20, (6,)), "attention_mask": torch.ones(6, dtype=torch.long),
             "labels": torch.tensor(k % 3)} for k in range(8)]  # fmt: skip
    args = transformers.TrainingArguments(str(tmp_path), per_device_train_batch_size=4, max_steps=2, use_cpu=True,
                                          report_to=[], save_strategy="no", disable_tqdm=True)  # fmt: skip
    course = Course(bert, lambda outputs, labels: loss(outputs.logits, labels))
    before = state(bert)
    FamilyTrainer(course, args=args, train_dataset=rows).train()
    assert course.steps == 2
    assert not same(state(bert), before)
