"""The settings of the service: `args` in a Serve configuration, options of `retreever serve`."""

import os
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from retreever.system.workspace import Workspace

CHAMPION_URI = "models:/retreever@champion"


class ServiceSettings(BaseModel):
    """Which versions are served, by how many replicas, on what resources."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(
        CHAMPION_URI, min_length=1, description="an alias or version in MLflow, a run, or a bundle's folder"
    )
    workspace: str = Field(
        default_factory=lambda: str(Workspace.default().root),
        description="folder for the service's copies of bundles; every node must see it",
    )
    canary: str | None = Field(None, description="version to try on a share of the searches, named as `model` is")
    canary_share: float = Field(0.1, ge=0, le=1, description="share of the searches that the canary answers")
    poll_s: float = Field(5, ge=0.1, description="seconds between looks at the alias")
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    threads: int | None = Field(
        None, ge=1, description="threads of a replica; null: processors of a machine minus one, over max_replicas"
    )
    replica_cpus: float = Field(0.25, ge=0, description="CPUs that Ray reserves for a replica")
    replica_gpus: float = Field(
        0, ge=0, description="GPUs of a replica, or a fraction of one; its encoder then runs there"
    )
    waiting: int = Field(64, ge=1, description="queries that may wait in a replica; beyond it callers get 429")
    timeout_s: float = Field(30, gt=0, description="seconds until a read is answered with 504")
    start_s: float = Field(300, gt=0, description="seconds that the first version may take to serve")
    trace_share: float = Field(
        0, ge=0, le=1, description="share of the searches that are sent to MLflow as traces, texts included"
    )

    @property
    def threads_each(self) -> int:
        """Threads of a replica.

        A team of threads waits for its slowest thread. It loses more than it gains where another team, or the
        event loop that answers HTTP, takes one of its processors.
        """
        return self.threads or max(1, ((os.cpu_count() or 1) - 1) // self.max_replicas)

    @property
    def device(self) -> str:
        """Device of a replica's encoder, as torch names it."""
        return "cuda" if self.replica_gpus else "cpu"

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas ({self.min_replicas}) must be at most max_replicas ({self.max_replicas})")
        return self
