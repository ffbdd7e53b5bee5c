"""Exact top-k search: by certified bounds on a CPU, by matrix products on a device."""
