"""Exact top-k search: by upper bounds on a CPU, by matrix products on a device."""
