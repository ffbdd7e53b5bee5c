"""What the processes of a cluster set before they work."""

from retreever.cluster import launch_training


def look_often():
    """An elastic run looks every 2 s whether it can grow."""
    launch_training.RESIZE_S = 2.0
