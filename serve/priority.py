"""Which of our threads go first where processors are short: what starts, then what answers, then what computes.

A replica that starts comes to help; behind those it is to help it would not come in time. Only the order on one machine
is meant, so where a system knows no priorities nothing is lost.
"""

import os

ANSWERS = 5
COMPUTES = 10


def give_way(niceness: int) -> None:
    """Lower the calling thread's priority, and that of the threads it starts from now on; once a thread."""
    if hasattr(os, "nice"):
        os.nice(niceness)
