"""Quality and speed of rankings: metrics per level, exact top-k, paired tests, latency, plots."""
