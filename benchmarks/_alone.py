"""A member's shape as a network of its own, freshly initialised, trained by the very same loop."""

from __future__ import annotations

import math

import torch
from torch import nn

from pliant import Family
from pliant.runs.build import build_family, calibrate, default_choices
from pliant.runs.spec import recipe as as_recipe
from pliant.space import Config
from pliant.tasks import Task
from pliant.technique import Recipe
from pliant.training import default_optimizer, train

OFFSET = 1000
"""Added to the seed of the family: what is trained alone starts from other weights, with the same batches."""


def fresh(task: Task, config: Config, seed: int) -> nn.Module:
    """Return an untrained network of the shape that ``config`` picks, initialised as the task's model does it.

    Each tensor is a slice of a fresh full-size initialisation (nothing is sorted). Linear and convolutional layers draw
    weights and biases with a spread of 1 / sqrt(fan-in), so where a slice has a smaller fan-in it is scaled by
    sqrt(full fan-in / own fan-in): then it is distributed as if the layer had been built at its own size.
    """
    family = build_family(task, default_choices(), (), seed + OFFSET)
    if family.form != "module":
        raise SystemExit(f"{task.name}: its members are graphs, whose layers cannot be initialised one by one")
    net = family.extract(config)
    full = dict(family.model.named_modules())
    embedded = {id(m.weight) for m in net.modules() if isinstance(m, nn.Embedding)}
    with torch.no_grad():
        for path, module in net.named_modules():
            if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) or id(module.weight) in embedded:
                continue
            scale = math.sqrt(full[path].weight[0].numel() / module.weight[0].numel())
            module.weight.mul_(scale)
            if module.bias is not None:
                module.bias.mul_(scale)
    return net


def train_alone(task: Task, config: Config, seed: int, steps: int, rate: float = 1.0) -> nn.Module:
    """Train such a network: a family without choices, so optimizer, schedule, batches and clipping are the same.

    The learning rate is ``rate`` times the task's: that was chosen for the family, which may want another one.
    Its normalisation statistics are estimated anew as well, from the batches that members use.
    """
    family = Family(fresh(task, config, seed), task.example_args())
    calibrate(family, task, seed)
    teach(family, task, seed, steps, rate)
    return family.ready({})


def train_family(task: Task, seed: int, steps: int, recipe: str, rate: float = 1.0) -> Family:
    """Train the task's family by a recipe, with ``rate`` times the task's learning rate."""
    family = build_family(task, default_choices(), (), seed)
    teach(family, task, seed, steps, rate, as_recipe(recipe))
    return family


def teach(family: Family, task: Task, seed: int, steps: int, rate: float = 1.0, recipe: Recipe | None = None) -> None:
    """Train as `pliant run` does."""
    settings = task.settings
    optimizer = default_optimizer(
        family.parameters(), rate * float(settings.get("lr", 1e-3)), float(settings.get("weight_decay", 0.05))
    )
    warmup = float(settings.get("warmup", 0)) / max(1, steps)
    train(
        family,
        lambda start: task.batches(seed, start),
        task.loss,
        steps=steps,
        optimizer=optimizer,
        warmup=min(warmup, 1.0),
        seed=seed,
        recipe=recipe,
    )
