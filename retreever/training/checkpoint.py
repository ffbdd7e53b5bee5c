"""Checkpoints: the full state of a training, saved so that a resumed run equals an uninterrupted one.

`step-00000200/` is one sealed folder: `model.safetensors` (tree and loss), `optimizer.safetensors` (AdamW's moments),
`state.json` (step, history, digest of the configuration) and `best/` (the best model so far). It is written aside and
renamed, and the checkpoint before it is kept, so that neither a kill at any moment nor a damaged file costs more than
one interval between validations. There is no pickle, and no random state to keep (see
`training_batches.derive_step_seed`). This module does not know when a state is worth saving.
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
from retreever.system.files import read_json, seal_folder, verify_sealed_folder, write_atomically, write_json
from retreever.trained_tree import save_model

CHECKPOINTS_KEPT = 2
DAMAGED_SUFFIX = ".damaged"


class TrainableModule(Protocol):
    """A trained module: its routing tree, and the parameters of all of it."""

    tree: RoutingTree

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> object: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


@dataclass
class TrainingState:
    """The progress of a training.

    Attributes:
        config_digest: digest of the run's configuration.
        step: optimiser steps done.
        seconds: time spent in these steps, over all sessions.
        since_best: validations since the best one.
        stopped: training stopped early, without progress.
        losses: losses of the steps since the last validation, where the state was saved between two validations.
        best: figures of the best validation, which is the first where there is nothing to judge on.
        history: figures of every validation.
        notes: faults from which the training recovered, one sentence each.
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
class Checkpoint:
    """A checkpoint in memory, so that one worker can send it to all.

    Attributes:
        model: parameters and buffers of tree and loss by name.
        moments: AdamW's state by `moment/parameter name`.
    """

    state: TrainingState
    model: dict[str, Tensor]
    moments: dict[str, Tensor]

    def restore(self, learner: TrainableModule, optimizer: torch.optim.Optimizer) -> TrainingState:
        """Load weights and moments into `learner` and `optimizer`; return the state of the training."""
        learner.load_state_dict(self.model)
        for name, parameter in learner.named_parameters():
            own = {key.partition("/")[0]: value for key, value in self.moments.items() if key.partition("/")[2] == name}
            if own:
                optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in own.items()}
        return self.state


def checkpoint_path(folder: Path, step: int) -> Path:
    """Path of the checkpoint after `step` steps in `folder`."""
    return folder / f"step-{step:08d}"


def find_latest_step(folder: Path) -> int:
    """Optimiser steps of the newest checkpoint in `folder`; -1 without one."""
    checkpoints = _list_checkpoints(folder)
    return int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else -1


def save_checkpoint(
    folder: Path,
    learner: TrainableModule,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    config: Config,
    best: RoutingTree | None,
) -> None:
    """Save the present state in `folder`, whole or not at all, and remove all but the last two checkpoints.

    Args:
        best: the present tree, as it is exported, if it is the best so far; None: the best of the newest checkpoint is
            copied, if any.
    """
    with write_atomically(checkpoint_path(folder, state.step)) as aside:
        aside.mkdir()
        save_file(_copy_to_cpu(learner.state_dict()), aside / "model.safetensors")
        save_file(_collect_moments(learner, optimizer), aside / "optimizer.safetensors")
        write_json(aside / "state.json", asdict(state))
        if best is not None:
            save_model(best, config, aside / "best")
        elif state.best:
            shutil.copytree(_list_checkpoints(folder)[-1] / "best", aside / "best")
        seal_folder(aside, {"format": 2, "config_digest": config.digest})
    for old in _list_checkpoints(folder)[:-CHECKPOINTS_KEPT]:
        shutil.rmtree(old)


def load_latest_checkpoint(folder: Path, config: Config) -> Checkpoint | None:
    """The newest undamaged checkpoint in `folder`; None where there is no checkpoint.

    A damaged checkpoint is renamed, with the suffix `.damaged`; the notes of the returned state name it.

    Raises:
        BundleError: every checkpoint is damaged; the message names all.
        ConfigError: the checkpoint belongs to another configuration.
    """
    faults: list[str] = []
    for path in reversed(_list_checkpoints(folder)):
        try:
            saved = _read_checkpoint(path)
        except BundleError as error:
            faults.append(str(error))
            continue
        _refuse_other_config(path, saved.state, config)
        _rename_damaged(folder, saved.state, faults)
        return saved
    if faults:
        raise BundleError(f"{folder}: no checkpoint is whole; remove that folder to start again: " + "; ".join(faults))
    return None


def read_training_state(folder: Path) -> TrainingState:
    """The state in the newest checkpoint in `folder`.

    Raises:
        BundleError: there is no checkpoint, or its state cannot be read.
    """
    checkpoints = _list_checkpoints(folder)
    if not checkpoints:
        raise BundleError(f"{folder}: holds no checkpoint")
    return _read_state(checkpoints[-1])


def export_best_model(folder: Path, target: Path) -> None:
    """Copy the best model of the newest checkpoint in `folder` to `target`, whole or not at all."""
    with write_atomically(target) as aside:
        shutil.copytree(_list_checkpoints(folder)[-1] / "best", aside)


def _list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the newest last."""
    return sorted(path for path in folder.glob("step-" + "[0-9]" * 8) if path.is_dir())


def _read_checkpoint(path: Path) -> Checkpoint:
    verify_sealed_folder(path)
    state = _read_state(path)
    if state.best:
        verify_sealed_folder(path / "best")  # it has a seal of its own
    return Checkpoint(state, load_file(path / "model.safetensors"), load_file(path / "optimizer.safetensors"))


def _read_state(path: Path) -> TrainingState:
    values: dict[str, Any] = read_json(path / "state.json")
    try:
        return TrainingState(**values)
    except TypeError as error:
        raise BundleError(f"{path / 'state.json'}: not a training state ({error})") from None


def _refuse_other_config(path: Path, state: TrainingState, config: Config) -> None:
    if state.config_digest != config.digest:
        raise ConfigError(
            [
                f"{path.parent.parent}: holds a run of another configuration ({state.config_digest}, this one is "
                f"{config.digest}); choose another run name or remove that folder"
            ]
        )


def _rename_damaged(folder: Path, state: TrainingState, faults: list[str]) -> None:
    """Rename the checkpoints newer than `state` and note why."""
    for fault, path in zip(faults, reversed(_list_checkpoints(folder)), strict=False):
        aside = path.with_name(path.name + DAMAGED_SUFFIX)
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        state.notes.append(f"damaged checkpoint {path.name} set aside, went on from step {state.step}: {fault}")


def _collect_moments(learner: TrainableModule, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by `moment/parameter name`."""
    return {
        f"{key}/{name}": value.detach().cpu().contiguous()
        for name, parameter in learner.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _copy_to_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
