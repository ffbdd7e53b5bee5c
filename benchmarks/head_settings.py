"""Which start, anchor and dropout make a Matryoshka head rank well? Dev NDCG@10 by prefix, one line a setting.

    python -m benchmarks.head_settings DATA STEPS        # an encoded set, e.g. docstrings 75

The first lines are the baseline: heads whose weights decay to zero. Compare STEPS of a full training (600) with an
eighth of them, which is what the baseline's own tuning trains for.
"""

import sys
from dataclasses import asdict
from itertools import product
from typing import Literal

from retreever.baselines import Matryoshka
from retreever.baselines.baseline import FLOAT32_CODE, evaluate_on_dev, read_dev_judgements
from retreever.baselines.matryoshka.matryoshka_head import ANCHORS
from retreever.baselines.matryoshka.prefix_head import HeadSettings
from retreever.config import Config
from retreever.encoding.encoding_store import open_encoded_dataset
from retreever.evaluation.metrics import evaluate_rankings
from retreever.system.workspace import Workspace

TRIED_ANCHORS = (*ANCHORS, (1.6, 1.6, 3.0, 6.0))
STARTS: tuple[Literal["principal", "frame"], ...] = ("principal", "frame")
VARIED = ("anchor", "start", "input_dropout")


def main() -> None:
    """Train and judge a head for every combination of start, anchor and dropout."""
    name, steps = sys.argv[1], int(sys.argv[2])
    data = open_encoded_dataset(Config().with_overrides({"data.name": name}), Workspace.default())
    queries, relevant = read_dev_judgements(data)
    for anchor, start, dropout in product(TRIED_ANCHORS, STARTS, (0.1, 0.3)):
        settings = HeadSettings(start=start, anchor=anchor, input_dropout=dropout)
        head = Matryoshka(steps=steps)
        head.grid = [settings]  # type: ignore[misc]
        head.fit(data)
        ranked = {form.dims: head.search(queries, 10, form)[0] for form in head.forms if form.code == FLOAT32_CODE}
        found = {dims: evaluate_rankings(rows, relevant)["ndcg_at_10"] for dims, rows in ranked.items()}
        figures = ", ".join(f"{dims}: {found[dims]:.3f}" for dims in (16, 64, 256, 1024))
        varied = ", ".join(f"{key} {value}" for key, value in asdict(settings).items() if key in VARIED)
        print(f"{varied}: mean {evaluate_on_dev(head, data):.4f}, {figures}", flush=True)


if __name__ == "__main__":
    main()
