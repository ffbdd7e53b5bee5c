"""retreever: learned binary routing trees whose levels are coarse-to-fine representations of text.

`Retreever` searches a bundle, `fit` trains a tree, `Config` holds every setting, `Passage` is what is retrieved. Each
is loaded when it is first used: `import retreever` loads neither torch nor ray nor mlflow. `retreever --help` has the
rest.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retreever.bundle.retriever import Retreever
    from retreever.config import Config
    from retreever.data.dataset import Passage
    from retreever.training.training_loop import fit

__version__ = "0.1.0"
__all__ = ["Config", "Passage", "Retreever", "fit"]

_HOMES = {
    "Config": "retreever.config",
    "Passage": "retreever.data.dataset",
    "Retreever": "retreever.bundle.retriever",
    "fit": "retreever.training.training_loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'retreever' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
