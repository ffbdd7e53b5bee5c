"""From the encodings of a corpus to an index: routes them through a tree, and reads words and encodings as configured.

The index may be built in this process, or shard by shard elsewhere; both take these settings.
"""

from pathlib import Path

from retreever.config import Config
from retreever.encoding.encoding_store import EncodedDataset
from retreever.index import LexicalSettings
from retreever.index.tree_index import TreeIndex
from retreever.system.progress import Track, track_silently
from retreever.trained_tree import TrainedTree, count_chunks, route_encodings


def build_index(
    trained: TrainedTree, data: EncodedDataset, track: Track = track_silently, folder: Path | None = None
) -> TreeIndex:
    """Route a corpus and index it.

    Args:
        folder: write the index there as it grows; the index stays in memory where it is None.
    """
    chunks = route_encodings(trained.tree, trained.config, data.passages)
    tracked = track(chunks, "indexing, chunks", total=count_chunks(trained.config, len(data.passages)))
    ids, settings = [passage.id for passage in data.dataset.corpus], make_lexical_settings(trained.config)
    texts = data.dataset.passage_texts() if settings else None
    encodings = data.passages.frozen_part if trained.layout.encoding_dim else None
    return TreeIndex.build(tracked, ids, trained.layout, folder, texts=texts, lexical=settings, encodings=encodings)


def make_lexical_settings(config: Config) -> LexicalSettings | None:
    """How an index of this configuration reads words; None where it has none."""
    own = config.index
    if not own.lexical or own.compact:
        return None
    return LexicalSettings(own.k1, own.b, own.stopwords, own.stemmer)
