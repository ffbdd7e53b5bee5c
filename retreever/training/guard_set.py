"""Guard sets (ours): data that is not trained on, where a tree is judged against the frozen encoder.

A tree learns its domain and may forget what the encoder knew of everything else. The ratio of NDCG@10 at the last
level to that of the cosine of the encoder's last layer, on the same queries and passages, tells how much is left. Where
a hybrid will be served, the same words are added to both.
How the data is found and encoded is not known here.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from retreever.bundle.hybrid_weights import HybridWeights
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.encoding.text_encodings import Encodings
from retreever.errors import ConfigError, DataError
from retreever.evaluation.metrics import METRIC
from retreever.model import RoutingTree
from retreever.training import distributed
from retreever.training.judged_sample import JudgedSample

GUARD_METRIC = "guard_of_frozen"
"""The smallest ratio over all guard sets."""


class GuardSet:
    """One guard set, judged on its test split, or on dev where it has no test split.

    Args:
        name: of its figures.
        config: of the run; it says how many queries and passages are judged, as on dev.
        weights: of the hybrid; usual ones where it is None.

    Attributes:
        frozen: NDCG@10 of the frozen encoder, or of its hybrid with words.

    Raises:
        DataError: it has neither a test nor a dev split, or the frozen encoder finds nothing in it.
    """

    def __init__(
        self,
        name: str,
        data: EncodedDataset,
        config: Config,
        device: str = "cpu",
        weights: HybridWeights | None = None,
    ):
        self.name, self.similarity = name, config.loss.similarity
        self.split = "test" if len(data.dataset.qrels.get("test", ())) else "dev"
        self.sample = JudgedSample(config, data, self.split, np.random.default_rng(0), device, weights)
        vectors = (
            _normalize_last_layer(data.queries, self.sample.queries),
            _normalize_last_layer(data.passages, self.sample.passages),
        )
        hybrid, first = self.sample.hybrid, distributed.worker_slice(len(self.sample.queries)).start
        added = None if hybrid is None else hybrid.add_to_encoder(first)
        self.frozen = float(self.sample.judge_vectors(*vectors, "inner", added)[METRIC].mean())
        if not self.frozen:
            raise DataError(f"guard set {name}: the frozen encoder finds nothing in it, so no tree can lose anything")

    def judge(self, tree: RoutingTree) -> dict[str, float]:
        """NDCG@10 of `tree` at the last level, and its ratio to the frozen encoder's."""
        leaves = tree.tree.level(tree.tree.depth)
        queries, passages = (nodes[:, leaves] for nodes in self.sample.route(tree))
        hybrid, first = self.sample.hybrid, distributed.worker_slice(len(queries)).start
        added = None if hybrid is None else hybrid.add_to_level(tree.tree.depth, passages, first)
        ndcg = float(self.sample.judge_vectors(queries, passages, self.similarity, added)[METRIC].mean())
        return {f"guard/{self.name}/{METRIC}": ndcg, f"guard/{self.name}/of_frozen": ndcg / self.frozen}


def make_guard_sets(
    config: Config, guards: Mapping[str, EncodedDataset], trained: EncodedDataset, device: str = "cpu"
) -> list[GuardSet]:
    """The guard sets of a training.

    Args:
        guards: data of every set of `config.guards`, by its name there.

    Raises:
        ConfigError: `guards` are not those of the configuration, or one of them is the training's own data.
        DataError: see `GuardSet`.
    """
    if guards.keys() != config.guards.keys():
        raise ConfigError(
            [f"train.guard: names {list(config.guards)}, the training was given {list(guards)} as `guards`"]
        )
    for name, data in guards.items():
        if data.dataset.digest == trained.dataset.digest:
            raise ConfigError([f"train.guard: must be a set that is not trained on, {name} has the training's texts"])
    return [GuardSet(name, data, config, device) for name, data in guards.items()]


def judge_guard_sets(guards: Sequence[GuardSet], tree: RoutingTree) -> dict[str, float]:
    """Figures of all guard sets, and the smallest ratio under `GUARD_METRIC`; none without a guard set."""
    figures = {name: value for guard in guards for name, value in guard.judge(tree).items()}
    ratios = list_guard_ratios(figures)
    return figures | ({GUARD_METRIC: min(ratios.values())} if ratios else {})


def list_guard_ratios(figures: Mapping[str, float]) -> dict[str, float]:
    """The ratio to the frozen encoder by guard set, from the figures of a validation.

    >>> list_guard_ratios({"guard/scifact/ndcg_at_10": 0.6, "guard/scifact/of_frozen": 0.98, "ndcg_at_10": 0.5})
    {'scifact': 0.98}
    """
    ratios = ((name.split("/"), value) for name, value in figures.items() if name.startswith("guard/"))
    return {parts[1]: value for parts, value in ratios if parts[2] == "of_frozen"}


def describe_guards(figures: Mapping[str, float]) -> str:
    """The ratio to the frozen encoder on each guard set, in words; empty without a guard set.

    >>> describe_guards({"guard/scifact/of_frozen": 0.981, "guard/nq/of_frozen": 1.0041})
    '0.981 of the frozen encoder on scifact, 1.004 of the frozen encoder on nq'
    """
    return ", ".join(
        f"{ratio:.3f} of the frozen encoder on {name}" for name, ratio in list_guard_ratios(figures).items()
    )


def _normalize_last_layer(encodings: Encodings, rows: np.ndarray) -> Float[np.ndarray, "texts width"]:
    """Vectors of the last layer alone, of length one, so that their inner product is the encoder's cosine."""
    return F.normalize(torch.from_numpy(np.array(encodings.last_layer[rows], np.float32))).numpy()
