"""The only user of MLflow: runs and what is logged to them, the registry, promotion, and the watchdog."""
