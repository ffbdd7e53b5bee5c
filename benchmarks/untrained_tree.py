"""How well does an untrained tree rank? Dev NDCG@10 by dimensions, by its start.

    python -m benchmarks.untrained_tree [NAME=VALUE ...]        # after `make demo`, on its corpus and encodings

Overrides are as for `retreever train --set`. The baseline in the same run is the cosine of the encodings that the tree
reads.
"""

import sys
from pathlib import Path

import numpy as np

from retreever.config import parse_override
from retreever.encoding.encoding_store import open_encoded_dataset
from retreever.evaluation.metrics import evaluate_rankings
from retreever.evaluation.ranking import top_k
from retreever.model import default_levels
from retreever.sweeps import search_space as spaces
from retreever.system.workspace import Workspace
from retreever.training.initial_tree import start_tree
from retreever.training.learner import build_learner
from retreever.training.training_batches import TrainingBatches
from retreever.training.validation import Validation

STARTS = ("random", "frame", "clusters")


def main() -> None:
    """Print one line per start."""
    config = spaces.list_trials(spaces.load_space(Path("search_spaces/demo.yaml")))[0].config
    config = config.with_overrides(dict(parse_override(text) for text in sys.argv[1:]))
    data = open_encoded_dataset(config, Workspace.default())
    batches = TrainingBatches(config, data, "cpu")
    validation = Validation(config, data, batches.pairs)
    sample = validation.sample
    queries, passages = np.asarray(data.queries.pooled)[sample.queries], np.asarray(data.passages.pooled)
    rows, _ = top_k(queries, passages[sample.passages], 100, "inner")
    print(f"cosine of the encodings: {evaluate_rankings(rows, sample.relevant)['ndcg_at_10']:.3f}")
    for start in STARTS:
        chosen = config.with_overrides({"tree.start": start})
        tree = build_learner(chosen, data.dim).tree
        start_tree(tree, chosen, *batches.load_sample())
        found = validation.run(tree).metrics
        levels = default_levels(config.tree.depth)
        figures = ", ".join(f"{2**level}: {found[f'ndcg_at_10/level_{level:02d}']:.3f}" for level in levels)
        print(f"start {start}: {figures}; agreement {found['routing_agreement/level_06']:.2f} at level 6")
    batches.close()


if __name__ == "__main__":
    main()
