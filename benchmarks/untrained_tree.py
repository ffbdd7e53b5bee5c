"""How well does an untrained tree rank? Dev NDCG@10 by dimensions, by growth of the initial spread.

    python -m benchmarks.untrained_tree        # after `make demo`, on its corpus and encodings

The baseline in the same run is the cosine of the encodings that the tree reads.
"""

from pathlib import Path

import numpy as np

from retreever.encoding.encoding_store import open_encoded_dataset
from retreever.evaluation.metrics import evaluate_rankings
from retreever.evaluation.ranking import top_k
from retreever.model import RoutingTree, default_levels
from retreever.sweeps import search_space as spaces
from retreever.system.workspace import Workspace
from retreever.training.validation import Validation


def main() -> None:
    """Print one line per initial growth of the spread."""
    config = spaces.list_trials(spaces.load_space(Path("search_spaces/demo.yaml")))[0].config
    data = open_encoded_dataset(config, Workspace.default())
    pairs = data.dataset.pairs("train")
    validation = Validation(config, data, pairs)
    queries, passages = (np.asarray(side.pooled) for side in (data.queries, data.passages))
    rows, _ = top_k(queries[validation.queries], passages[validation.passages], 100, "inner")
    print(f"cosine of the encodings: {evaluate_rankings(rows, validation.relevant)['ndcg_at_10']:.3f}")
    for growth in (0.0, 0.25, 0.5):
        tree = RoutingTree(data.dim, **config.tree.model_dump() | {"init_growth": growth})
        tree.calibrate(*data.passages.batch(pairs[:1024, 1]))
        found = validation.run(tree).metrics
        levels = default_levels(config.tree.depth)
        figures = ", ".join(f"{2**level}: {found[f'ndcg_at_10/level_{level:02d}']:.3f}" for level in levels)
        print(f"untrained tree, init_growth {growth}: {figures}")


if __name__ == "__main__":
    main()
