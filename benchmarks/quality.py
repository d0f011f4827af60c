"""The recommended members of a family against networks of the same shapes trained alone.

``python -m benchmarks quality RUN [--seeds 5] [--task NAME] [--steps N]``: RUN is the folder of a finished
``pliant run``; its shown members are the shapes. For each seed a family is trained by the default recipe for the
task's own steps, and every shape is trained alone for as many steps, with the same optimizer, schedule, clipping and
batches. A network trained alone starts from the initialisation that its own class would give it: a slice of a fresh
network, with the weights of layers whose inputs were cut scaled up to their smaller fan-in.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pliant.family import Family
from pliant.report import load
from pliant.runs.build import build_family
from pliant.runs.folder import RunFolder
from pliant.space import Config
from pliant.tasks import Task, load_task
from pliant.training import train

from ._figures import Figure

BY_DEFAULT = False

# How much more error a member may have than the same network alone, and than the full network, per task.
LIMITS = {"digits": (0.5, 1.5), "charlm": (0.05, 0.15)}
_FRESH = 10_000  # offset of the seeds from which networks trained alone are initialised


def run(arguments: Sequence[str]) -> list[Figure]:
    """Train families and single networks and compare their test errors."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks quality", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--members", default=None, help="which of the run's members, such as full,m2,m4")
    asked = parser.parse_args(arguments)
    folder, data = RunFolder.open(asked.run), load(asked.run / "report.json")
    task = load_task(folder.record["asked"]["task"])
    settings = task.settings_for() | ({"steps": asked.steps} if asked.steps else {})
    choices = folder.record["asked"]["choices"]
    wanted = asked.members.split(",") if asked.members else [m.id for m in data.members if m.role != "dropped"]
    shapes = {member.id: Config(member.config) for member in data.members if member.id in wanted}
    torch.set_num_threads(int(folder.record["training_threads"]))
    together: dict[str, list[float]] = {name: [] for name in shapes}
    alone: dict[str, list[float]] = {name: [] for name in shapes}
    for seed in range(asked.first, asked.first + asked.seeds):
        family = _trained_family(task, choices, settings, seed)
        for name, config in shapes.items():
            together[name].append(_error(task, family.ready(config)))
        fresh = build_family(task, choices, (), seed + _FRESH)
        for name, config in shapes.items():
            net = _at_own_scale(fresh.extract(config), fresh.model)
            alone[name].append(_error(task, _train_alone(net, task, settings, seed)))
            print(
                f"seed {seed} {name}: in the family {together[name][-1]:.3f}, alone {alone[name][-1]:.3f}", flush=True
            )
    return _figures(task, data, together, alone, int(settings["steps"]))


def _error(task: Task, net: nn.Module) -> float:
    return next(iter(task.evaluate(net, "test").values()))


def _optimizer(net: nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"])


def _trained_family(task: Task, choices: Sequence[str], settings: dict[str, Any], seed: int) -> Family:
    family = build_family(task, choices, (), seed)
    train(
        family,
        lambda start: task.batches(seed, start),
        task.loss,
        steps=settings["steps"],
        optimizer=_optimizer(family.model, settings),
        warmup=settings.get("warmup", 0) / settings["steps"],
        seed=seed,
    )
    return family


def _at_own_scale(net: nn.Module, full: nn.Module) -> nn.Module:
    """Scale layers whose inputs were cut to the initialisation of their own, smaller fan-in."""
    whole = dict(full.named_modules())
    for path, module in net.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            own, other = module.weight[0].numel(), whole[path].weight[0].numel()  # type: ignore[union-attr, operator]
            with torch.no_grad():
                module.weight.mul_(math.sqrt(other / own))
                if module.bias is not None:
                    module.bias.mul_(math.sqrt(other / own))
    return net


def _train_alone(net: nn.Module, task: Task, settings: dict[str, Any], seed: int) -> nn.Module:
    steps, warmup = int(settings["steps"]), int(settings.get("warmup", 0))
    optimizer = _optimizer(net, settings)

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    net.train()
    torch.manual_seed(seed)
    for step, (inputs, targets) in zip(range(steps), task.batches(seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = settings["lr"] * rate(step)
        optimizer.zero_grad()
        task.loss(net(inputs), targets).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return net.eval()


def _figures(
    task: Task, data: Any, together: dict[str, list[float]], alone: dict[str, list[float]], steps: int
) -> list[Figure]:
    limit, more = LIMITS.get(task.name.partition(":")[0], (None, None))
    measured = {member.id: member.measurements for member in data.members}
    full = statistics.fmean(together["full"])
    out = []
    gaps = []
    for name in together:
        gap = [a - b for a, b in zip(together[name], alone[name], strict=True)]
        gaps.append(statistics.fmean(gap))
        facts = {
            "in_family": statistics.fmean(together[name]),
            "alone": statistics.fmean(alone[name]),
            "over_full": statistics.fmean(together[name]) - full,
            "macs_share": measured[name]["macs"].value / measured["full"]["macs"].value,
            "time_share": measured[name]["latency_onnxruntime"].details["ratio"],
            "seeds": len(gap),
            "steps": steps,
        }
        spread = statistics.stdev(gap) if len(gap) > 1 else None
        out.append(
            Figure(
                f"{task.name} {name}: error over alone",
                gaps[-1],
                data.reference.measurements[data.error].unit,
                None,
                spread,
                facts,
            )
        )
    out.append(Figure(f"{task.name}: mean over members of error over alone", statistics.fmean(gaps), "", limit))
    good = [f for f in out[:-1] if f.facts["macs_share"] <= 0.25 and f.facts["time_share"] <= 0.5]
    best = min((f.facts["over_full"] for f in good), default=float("inf"))
    if task.name.startswith("charlm"):
        best = min((f.facts["over_full"] for f in out[:-1] if f.facts["time_share"] <= 0.5), default=float("inf"))
    out.append(
        Figure(f"{task.name}: least error over the full network of a member small and fast enough", best, "", more)
    )
    return out
