"""What `serve deploy serve/config.yaml` and a RayService import; the application itself is `retreever.service.app`."""

from retreever.service.app import build_application as build

__all__ = ["build"]
