"""The HTTP interface, its metrics, and the page."""
