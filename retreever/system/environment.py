"""Environment variables of Ray, MLflow, matplotlib and Hugging Face, set before any of them is imported.

They switch telemetry off and keep caches in the workspace. A cluster that we start gets a token of its own in the
environment, since Ray would write one to the home folder.
"""

import os
import secrets

from retreever.system.workspace import Workspace

ENVIRONMENT_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # reports arrive at this interval; default 2 s
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",  # a worker without its peer cannot leave cleanly; default 30 s
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",  # bursts are noticed at this interval; default 10 s
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # our request code only waits; computing has its own threads
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # between deployments: half the time of a call through Ray's core
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials store their own results
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # Idle threads of torch (libgomp) spin for some microseconds, then sleep. Spinning always, they halve the speed of
    # shared cores; if they sleep at once, encoding one query takes twice as long, since every operation wakes them.
    "GOMP_SPINCOUNT": "10000",
}
CACHE_FOLDERS = {"MPLCONFIGDIR": "matplotlib", "HF_HOME": "huggingface", "IR_DATASETS_HOME": "ir_datasets"}


def prepare_environment(workspace: Workspace) -> None:
    """Set the variables that the user has not set; call it before importing ray, mlflow, matplotlib or transformers."""
    for name, value in ENVIRONMENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name, folder in CACHE_FOLDERS.items():
        os.environ.setdefault(name, str(workspace.root / "cache" / folder))
    if "RAY_AUTH_MODE" not in os.environ and "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
