"""Judges tree and baselines on one split: same passages, queries, encoder and training budget.

Baselines are tuned on dev like the tree and trained on the same pairs for as many steps. Fitted baselines are cached,
so that a second comparison under the same protocol trains nothing. Knows neither Ray nor MLflow.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from retreever.baselines import BASELINES, BM25, Baseline, Form, Matryoshka, SparseCodes
from retreever.baselines.baseline import FLOAT32_CODE, Ranker
from retreever.baselines.hybrid.hybrid_ranker import HybridBaseline
from retreever.bundle.build_index import make_lexical_settings
from retreever.bundle.hybrid_weights import HybridWeights
from retreever.comparison.tree_hybrid import HYBRID_TUNING, TREE_HYBRID, TreeHybrid
from retreever.comparison.tree_ranker import TreeRanker
from retreever.comparison.verdict import Conditions, Verdict, VerdictRow
from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.errors import ConfigError, DataError
from retreever.evaluation.metrics import RelevantPassages, evaluate_per_query, group_judgements
from retreever.system.files import digest_json
from retreever.system.progress import Track, track_silently
from retreever.trained_tree import digest_model, load_model, load_trained_tree

QUICK_BASELINES = ("bm25", "frozen", "pca", "matryoshka")
"""Baselines of `retreever evaluate` and the demo: they take a minute, all of them an hour."""
_VERDICT_CODES = (FLOAT32_CODE, "float32 sum", "float16 sum")
COMPARED_SYSTEMS = (*BASELINES, TREE_HYBRID)
"""What `retreever compare` can set beside the tree."""


class JudgedForm(NamedTuple):
    """A ranker in one form on one split.

    Attributes:
        metrics: one value per query, by the names in `METRICS`.
    """

    form: Form
    bytes_per_document: float
    metrics: dict[str, Float[np.ndarray, " queries"]]


def compare_to_baselines(
    model: Path,
    data: EncodedDataset,
    *,
    split: str = "test",
    baselines: bool = True,
    cache: Path,
    track: Track = track_silently,
) -> Verdict:
    """Judge a tree and its hybrid at every reported level, and each of `QUICK_BASELINES` at each of its sizes.

    Args:
        model: folder of a model, or of a bundle, whose hybrid keeps its own weights.
        baselines: false judges what the model was trained for: the tree, or its hybrid too.
        cache: folder of fitted baselines.

    Raises:
        BundleError: the model cannot be read.
        DataError: the data set has no such split.
    """
    tree, config = load_model(model)
    queries, relevant = read_split_judgements(data, split)
    conditions = Conditions(
        len(data.passages),
        len(queries),
        config.encoder.name,
        config.train.steps,
        config.train.batch_size,
        config.train.seed,
    )
    rankers: list[Ranker] = [TreeRanker(tree, config)]
    if make_lexical_settings(config) and (baselines or config.train.goal == "hybrid"):
        rankers.append(fit_or_load_tree_hybrid(model, data, cache, track))
    if baselines:
        rankers += [fit_or_load_baseline(name, config, data, cache, track) for name in QUICK_BASELINES]
    rows = [
        VerdictRow(ranker.name, form.form.dims, form.bytes_per_document, _means(form))
        for ranker in rankers
        for form in judge(ranker, data, queries, relevant, codes=_VERDICT_CODES)
    ]
    return Verdict(data.dataset.name, conditions, rows)


def judge(
    ranker: Ranker,
    data: EncodedDataset,
    queries: np.ndarray,
    relevant: RelevantPassages,
    *,
    codes: Sequence[str] | None = None,
    track: Track = track_silently,
) -> Iterator[JudgedForm]:
    """Index `data` and judge every form of a ranker.

    Args:
        codes: only forms in these codes; None: all.
    """
    ranker.index(data, track)
    for form in ranker.forms:
        if codes is None or form.code in codes:
            rows, _ = ranker.search(queries, 100, form)
            yield JudgedForm(form, ranker.bytes_per_document(form), evaluate_per_query(rows, relevant))


def read_split_judgements(data: EncodedDataset, split: str) -> tuple[np.ndarray, RelevantPassages]:
    """Read the query rows of a split and what is relevant to each.

    Raises:
        DataError: the data set has no such split.
    """
    queries, relevant = group_judgements(data.dataset.qrels.get(split, np.empty((0, 3), np.int64)))
    if not len(queries):
        raise DataError(f"data set {data.dataset.name}: qrels/{split}.tsv is missing or empty")
    return queries, relevant


def fit_or_load_baseline(
    name: str, config: Config, data: EncodedDataset, cache: Path, track: Track = track_silently
) -> Baseline:
    """Fit a baseline on `data`, or load it where it was fitted under the same protocol.

    The sides of a hybrid are fitted or loaded first.

    Raises:
        ConfigError: there is no baseline of that name.
        DataError: a split that it needs is missing or empty.
    """
    baseline = find_baseline(name).for_config(config)
    folder = cache / f"{name}-{digest_json(describe_fit_protocol(name, config, data))}"
    if folder.is_dir():
        baseline.load(folder)
        return baseline
    if isinstance(baseline, HybridBaseline):
        words, vectors = (fit_or_load_baseline(side.name, config, data, cache, track) for side in baseline.sides())
        assert isinstance(words, BM25)
        baseline = type(baseline)(words, vectors)
        baseline.tune(data, track)
    else:
        baseline.fit(data, track)
    baseline.save(folder)
    return baseline


def fit_or_load_tree_hybrid(
    model: Path, data: EncodedDataset, cache: Path, track: Track = track_silently
) -> TreeHybrid:
    """Make a hybrid of the tree in the folder `model`, with the bundle's weights where it is that of a bundle.

    Otherwise they are chosen on `data`, or loaded if they were before.

    Raises:
        BundleError: the tree, or what is cached, cannot be read.
    """
    hybrid = TreeHybrid(load_trained_tree(model))
    stored = HybridWeights.load(model, hybrid.trained.digest)
    if stored is not None:
        hybrid.weights = stored
        return hybrid
    folder = cache / f"{TREE_HYBRID}-{digest_json([digest_model(model), data.dataset.digest, HYBRID_TUNING])}"
    if folder.is_dir():
        hybrid.load(folder)
    else:
        hybrid.tune(data, track)
        hybrid.save(folder)
    return hybrid


def describe_fit_protocol(name: str, config: Config, data: EncodedDataset) -> list[Any]:
    """List everything that decides a baseline fitted on `data`.

    Whether the store also holds token states does not, nor what computed them.
    """
    settings, baseline = config.flat(), find_baseline(name)
    decided = {setting: settings[setting] for setting in baseline.depends}
    tuning: list[Any] = []
    if issubclass(baseline, Matryoshka | SparseCodes | HybridBaseline):
        tuning.append(baseline.describe_tuning())
    if issubclass(baseline, HybridBaseline):
        tuning += [describe_fit_protocol(side.name, config, data) for side in baseline.sides()]
    encoder = config.encoder.model_dump(mode="json", exclude={"tokens", "runtime"})
    return [name, data.dataset.digest, encoder, decided, *tuning]


def find_baseline(name: str) -> type[Baseline]:
    """Return the class of the baseline of that name.

    Raises:
        ConfigError: there is no such baseline.
    """
    if name not in BASELINES:
        raise ConfigError([f"baseline {name}: unknown; must be one of {', '.join(COMPARED_SYSTEMS)}"])
    return BASELINES[name]


def _means(judged: JudgedForm) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in judged.metrics.items()}
