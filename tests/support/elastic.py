"""What the processes of a test cluster set before they work."""

from retreever.cluster import launch_training


def resize_often():
    """Let an elastic run check every 2 s whether it can grow."""
    launch_training.RESIZE_INTERVAL_S = 2.0
