"""What Ray, MLflow, matplotlib and Hugging Face read from the environment, set before any of them is imported.

No telemetry, caches in the workspace, and a cluster that we start is guarded by a token of its own, kept in the
environment: Ray would write one to the home folder.
"""

import os
import secrets

from retreever.system.workspace import Workspace

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # reports reach us at this pace; every 2 s by default
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",  # a worker whose peer is gone cannot leave in order; 30 s by default
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",  # a burst is noticed at this pace; 10 s by default
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # ours only waits; what computes has threads of its own
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # between deployments: half the time of a call through Ray's core
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials keep their own results
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # Idle threads of torch (libgomp) wait awake for some microseconds, then sleep. Always awake they halve the speed of
    # shared cores; asleep at once, one query takes its encoder twice as long: each of its operations wakes them anew.
    "GOMP_SPINCOUNT": "10000",
}
CACHES = {"MPLCONFIGDIR": "matplotlib", "HF_HOME": "huggingface", "IR_DATASETS_HOME": "ir_datasets"}


def prepare(workspace: Workspace) -> None:
    """Set what the user has not set; call it before ray, mlflow, matplotlib or transformers is imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name, folder in CACHES.items():
        os.environ.setdefault(name, str(workspace.root / "cache" / folder))
    if "RAY_AUTH_MODE" not in os.environ and "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
