"""Arguments of the application, as in the `args` of a Serve configuration."""

import os
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from retreever.system.workspace import Workspace

CHAMPION = "models:/retreever@champion"


class AppArguments(BaseModel):
    """What is served, and with how much."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(CHAMPION, min_length=1, description="an alias or version in MLflow, a run, or a bundle's folder")
    workspace: str = Field(
        default_factory=lambda: str(Workspace.default().root), description="where copies are kept; seen by every node"
    )
    canary: str | None = Field(None, description="the version that is tried, named as `model` is")
    canary_share: float = Field(0.1, ge=0, le=1, description="of the searches that the canary answers")
    poll_s: float = Field(5, ge=0.1, description="how often an alias is looked up")
    min_replicas: int = Field(1, ge=1, description="of encoder and retriever, each")
    max_replicas: int = Field(1, ge=1)
    ingress_replicas: int = Field(1, ge=1)
    threads: int | None = Field(
        None, ge=1, description="of an encoder or retriever; null: processors of a machine but one, over max_replicas"
    )
    encoder_cpus: float = Field(0.25, ge=0, description="CPUs that Ray sets aside for an encoder")
    encoder_gpus: float | None = Field(
        None, ge=0, description="GPUs, or the fraction of one, of an encoder; null: a quarter where there is one"
    )
    retriever_cpus: float = Field(0.125, ge=0)
    waiting: int = Field(64, ge=1, description="queries that may wait in an ingress; beyond them callers get 429")
    timeout_s: float = Field(
        30, gt=0, description="after which a request is answered with 504; a lost replica is replaced in less, mostly"
    )
    start_s: float = Field(300, gt=0, description="that a version may take to come up")

    @property
    def threads_each(self) -> int:
        """Threads of an encoder or retriever.

        A team of threads waits for its slowest: it loses more than it wins where another team, or the processes that
        answer, take one of its processors.
        """
        return self.threads or max(1, ((os.cpu_count() or 1) - 1) // self.max_replicas)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas ({self.min_replicas}) must be at most max_replicas ({self.max_replicas})")
        return self
