"""The full state of a training, kept at every validation: resume gives what no interrupt would have given.

`step-00000200/` is one sealed folder: `model.safetensors` (tree and loss), `optimizer.safetensors` (AdamW's moments),
`state.json` (step, history, digest of the configuration) and `best/` (the best model so far). It is written aside and
renamed, and the one before it is kept, so that neither a kill at any moment nor a damaged file costs more than one
interval. No pickle. There is no random state to keep: see `training.step_seed`.
"""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from retreever.config import Config
from retreever.errors import BundleError, ConfigError
from retreever.model import RoutingTree
from retreever.system.files import read_json, seal, unseal, write_aside, write_json
from retreever.trained_tree import save_model

KEPT = 2
DAMAGED = ".damaged"


class Learner(Protocol):
    """What is trained: the part of a module that is called a tree, and all of its parameters."""

    tree: RoutingTree

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> object: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


@dataclass
class State:
    """Where a training stands.

    Attributes:
        step: optimiser steps done.
        seconds: time spent in them, over all sessions.
        since_best: validations since the best one.
        stopped: ended early for want of progress.
        losses: of the steps since the last validation, where the state was saved between two.
        best: figures of the best validation.
        history: figures of every validation.
        notes: what went wrong on the way and was mended, one sentence each.
    """

    config_digest: str
    step: int = 0
    seconds: float = 0.0
    since_best: int = 0
    stopped: bool = False
    losses: list[float] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Saved:
    """A checkpoint read into memory, so that one worker can hand it to all."""

    state: State
    model: dict[str, Tensor]
    moments: dict[str, Tensor]

    def restore(self, learner: Learner, optimizer: torch.optim.Optimizer) -> State:
        """Put weights and moments into `learner` and `optimizer` and return where the training stands."""
        learner.load_state_dict(self.model)
        for name, parameter in learner.named_parameters():
            own = {key.partition("/")[0]: value for key, value in self.moments.items() if key.partition("/")[2] == name}
            if own:
                optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in own.items()}
        return self.state


def place(folder: Path, step: int) -> Path:
    """Where the state after `step` steps lies among the checkpoints in `folder`."""
    return folder / f"step-{step:08d}"


def steps(folder: Path) -> int:
    """Optimiser steps that the newest checkpoint in `folder` holds; 0 without one."""
    return int(_kept(folder)[-1].name.removeprefix("step-")) if _kept(folder) else 0


def save(
    folder: Path,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    state: State,
    config: Config,
    best: bool,
) -> None:
    """Add the present state to the checkpoints in `folder`, whole or not at all, and drop all but the last two.

    Args:
        best: the present model is the best so far; otherwise that of the newest checkpoint is carried over, if any.
    """
    with write_aside(place(folder, state.step)) as aside:
        aside.mkdir()
        save_file(_contiguous(learner.state_dict()), aside / "model.safetensors")
        save_file(_moments(learner, optimizer), aside / "optimizer.safetensors")
        write_json(aside / "state.json", asdict(state))
        if best:
            save_model(learner.tree, config, aside / "best")
        elif state.best:
            shutil.copytree(_kept(folder)[-1] / "best", aside / "best")
        seal(aside, {"format": 2, "config_digest": config.digest})
    for old in _kept(folder)[:-KEPT]:
        shutil.rmtree(old)


def latest(folder: Path, config: Config) -> Saved | None:
    """The newest whole checkpoint in `folder`; None where there is none.

    A damaged one is set aside under its name with `.damaged` behind it, and named in the notes of the state that is
    used in its place.

    Raises:
        BundleError: every checkpoint is damaged; all are named.
        ConfigError: the checkpoint belongs to another configuration.
    """
    faults: list[str] = []
    for path in reversed(_kept(folder)):
        try:
            saved = _read(path)
        except BundleError as error:
            faults.append(str(error))
            continue
        _refuse_another(path, saved.state, config)
        _set_aside(folder, saved.state, faults)
        return saved
    if faults:
        raise BundleError(f"{folder}: no checkpoint is whole; remove that folder to start again: " + "; ".join(faults))
    return None


def read_state(folder: Path) -> State:
    """Where the training with its checkpoints in `folder` stands.

    Raises:
        BundleError: no state is there, or it is not one of ours.
    """
    kept = _kept(folder)
    if not kept:
        raise BundleError(f"{folder}: holds no checkpoint")
    return _state(kept[-1])


def export_best(folder: Path, target: Path) -> None:
    """Copy the best model of the newest checkpoint in `folder` to `target`, whole or not at all."""
    with write_aside(target) as aside:
        shutil.copytree(_kept(folder)[-1] / "best", aside)


def _kept(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the newest last."""
    return sorted(path for path in folder.glob("step-" + "[0-9]" * 8) if path.is_dir())


def _read(path: Path) -> Saved:
    unseal(path)
    state = _state(path)
    if state.best:
        unseal(path / "best")  # sealed by itself
    return Saved(state, load_file(path / "model.safetensors"), load_file(path / "optimizer.safetensors"))


def _state(path: Path) -> State:
    values: dict[str, Any] = read_json(path / "state.json")
    try:
        return State(**values)
    except TypeError as error:
        raise BundleError(f"{path / 'state.json'}: not a training state ({error})") from None


def _refuse_another(path: Path, state: State, config: Config) -> None:
    if state.config_digest != config.digest:
        raise ConfigError(
            [
                f"{path.parent.parent}: holds a run of another configuration ({state.config_digest}, this one is "
                f"{config.digest}); choose another run name or remove that folder"
            ]
        )


def _set_aside(folder: Path, state: State, faults: list[str]) -> None:
    """Move what is newer than `state` out of the way and note why."""
    for fault, path in zip(faults, reversed(_kept(folder)), strict=False):
        aside = path.with_name(path.name + DAMAGED)
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        state.notes.append(f"damaged checkpoint {path.name} set aside, went on from step {state.step}: {fault}")


def _moments(learner: Learner, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by `moment/parameter name`."""
    return {
        f"{key}/{name}": value.detach().cpu().contiguous()
        for name, parameter in learner.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
