"""Options of Ray Serve that all deployments of the service share."""

from typing import Any

DEPLOYMENT_OPTIONS: dict[str, Any] = {
    "max_ongoing_requests": 64,
    "health_check_period_s": 3,
    "health_check_timeout_s": 30,
    "graceful_shutdown_wait_loop_s": 0.5,
    "graceful_shutdown_timeout_s": 45,  # longer than a search may take
    "max_surge_percent": 100,
}
