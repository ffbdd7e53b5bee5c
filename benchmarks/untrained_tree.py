"""How good is a tree before training? Dev NDCG@10 by dimensions for starts of equal and of growing spread.

    python -m benchmarks.untrained_tree        # after `make demo`, on its corpus and encodings

The rival in the same run is the frozen encoder's cosine.
"""

from pathlib import Path

import numpy as np

from retreever.encoding.encoding_store import open_dataset
from retreever.evaluation.metrics import evaluate
from retreever.evaluation.ranking import top_k
from retreever.model import RoutingTree, default_levels
from retreever.sweeps import search_space as spaces
from retreever.system.workspace import Workspace
from retreever.training.validation import Validation


def main() -> None:
    """Print one line a start."""
    config = spaces.trials(spaces.load(Path("search_spaces/demo.yaml")))[0].config
    data = open_dataset(config, Workspace.default())
    pairs = data.dataset.pairs("train")
    validation = Validation(config, data, pairs)
    queries, passages = (np.asarray(side.pooled) for side in (data.queries, data.passages))
    rows, _ = top_k(queries[validation.queries], passages[validation.passages], 100, "inner")
    print(f"cosine of what trees read: {evaluate(rows, validation.relevant)['ndcg_at_10']:.3f}")
    for growth in (0.0, 0.25, 0.5):
        tree = RoutingTree(data.dim, **config.tree.model_dump() | {"init_growth": growth})
        tree.calibrate(*data.passages.batch(pairs[:1024, 1]))
        found = validation.run(tree).metrics
        levels = default_levels(config.tree.depth)
        figures = ", ".join(f"{2**level}: {found[f'ndcg_at_10/level_{level:02d}']:.3f}" for level in levels)
        print(f"untrained tree, init_growth {growth}: {figures}")


if __name__ == "__main__":
    main()
