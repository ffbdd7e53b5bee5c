"""The tree beside its rivals on one split: same passages, same queries, same encoder, same training budget.

Rivals are tuned on dev like the tree and trained on the same pairs for as many steps; a fitted rival is kept, so that a
second comparison under the same protocol trains nothing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from retreever.baselines import RIVALS, Form, Rival
from retreever.baselines.baseline import PLAIN, Ranker
from retreever.comparison.tree_ranker import Contender
from retreever.comparison.verdict import Conditions, Row, Verdict
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.errors import ConfigError, DataError
from retreever.evaluation.metrics import Relevant, per_query, relevance
from retreever.model import RoutingTree
from retreever.system.files import digest
from retreever.system.progress import Track, silent

QUICK = ("bm25", "frozen", "pca", "matryoshka")
"""Rivals of a quick verdict: a minute, not an hour."""


class Judged(NamedTuple):
    """A ranker in one form on one split.

    Attributes:
        metrics: one value a query, by the names of `metrics.NAMES`.
    """

    form: Form
    bytes_per_document: float
    metrics: dict[str, Float[np.ndarray, " queries"]]


def compare(
    tree: RoutingTree,
    config: Config,
    data: EncodedDataset,
    *,
    split: str = "test",
    rivals: bool = True,
    cache: Path,
    track: Track = silent,
) -> Verdict:
    """Judge `tree` at every reported level, and each of the quick rivals at each of its sizes, all in float32.

    Args:
        cache: folder in which fitted rivals are kept.

    Raises:
        DataError: the data set has no such split.
    """
    queries, relevant = judgements(data, split)
    conditions = Conditions(
        len(data.passages),
        len(queries),
        config.encoder.name,
        config.train.steps,
        config.train.batch_size,
        config.train.seed,
    )
    rankers: list[Ranker] = [Contender(tree, config)]
    if rivals:
        rankers += [fitted(name, config, data, cache, track) for name in QUICK]
    rows = [
        Row(ranker.name, form.form.dims, form.bytes_per_document, _means(form))
        for ranker in rankers
        for form in judge(ranker, data, queries, relevant, codes=(PLAIN,))
    ]
    return Verdict(data.dataset.name, conditions, rows)


def judge(
    ranker: Ranker,
    data: EncodedDataset,
    queries: np.ndarray,
    relevant: Relevant,
    *,
    codes: Sequence[str] | None = None,
    track: Track = silent,
) -> Iterator[Judged]:
    """Index `data` and judge every form of a ranker.

    Args:
        codes: only forms in these codes; None: all.
    """
    ranker.index(data, track)
    for form in ranker.forms:
        if codes is None or form.code in codes:
            rows, _ = ranker.search(queries, 100, form)
            yield Judged(form, ranker.bytes_per_document(form), per_query(rows, relevant))


def judgements(data: EncodedDataset, split: str) -> tuple[np.ndarray, Relevant]:
    """Query rows of a split and what is relevant to each.

    Raises:
        DataError: the data set has no such split.
    """
    queries, relevant = relevance(data.dataset.qrels.get(split, np.empty((0, 3), np.int64)))
    if not len(queries):
        raise DataError(f"data set {data.dataset.name}: qrels/{split}.tsv is missing or empty")
    return queries, relevant


def fitted(name: str, config: Config, data: EncodedDataset, cache: Path, track: Track = silent) -> Rival:
    """A rival fitted on `data`, or loaded where it was fitted under the same protocol.

    Raises:
        ConfigError: there is no rival of that name.
        DataError: a split that it needs is missing or empty.
    """
    rival = known(name).for_config(config)
    folder = cache / f"{name}-{digest(protocol(name, config, data))}"
    if folder.is_dir():
        rival.load(folder)
    else:
        rival.fit(data, track)
        rival.save(folder)
    return rival


def protocol(name: str, config: Config, data: EncodedDataset) -> list[Any]:
    """All that decides a rival fitted on `data`; whether tokens are kept beside pooled vectors does not."""
    settings = config.flat()
    decided = {setting: settings[setting] for setting in known(name).depends}
    return [name, data.dataset.digest, config.encoder.model_dump(mode="json", exclude={"tokens"}), decided]


def known(name: str) -> type[Rival]:
    """The rival of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in RIVALS:
        raise ConfigError([f"rival {name}: there is none of that name; there are {', '.join(RIVALS)}"])
    return RIVALS[name]


def _means(judged: Judged) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in judged.metrics.items()}
