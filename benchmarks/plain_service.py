"""The rival of the service: FastAPI, uvicorn, the same encoder and faiss's flat index, as one writes it in an hour.

    python -m benchmarks.plain_service BUNDLE PORT

It answers with the same texts. Its vectors are drawn at random: how long a flat search takes does not depend on them.
"""

import sys
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field

from retreever.bundle.retriever import Retreever
from retreever.encoding.encoder import Encoder


class Asked(BaseModel):
    """A query, or several."""

    query: str | None = Field(None, min_length=1, max_length=20_000)
    queries: list[str] | None = Field(None, min_length=1, max_length=64)
    k: int = Field(10, ge=1, le=1000)


def plain(bundle: Path) -> FastAPI:
    """The application."""
    loaded = Retreever.load(bundle)
    encoder = Encoder.load(loaded.config.encoder.model_copy(update={"words": 0.0}))
    vectors = np.random.default_rng(0).standard_normal((len(loaded.index), encoder.dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    encoder.pooled(["what is there"], "query")
    app = FastAPI()

    @app.post("/v1/search")
    def search(asked: Asked) -> dict[str, Any]:
        begun = time.perf_counter()
        texts = asked.queries or [asked.query or ""]
        scores, rows = flat.search(encoder.pooled(texts, "query"), asked.k)
        results = []
        for text, own, similar in zip(texts, rows, scores, strict=True):
            hits = []
            for row, score in zip(own, similar, strict=True):
                passage = loaded.documents[int(row)]
                hits.append({"id": passage.id, "score": float(score), "title": passage.title, "text": passage.text})
            results.append({"query": text, "hits": hits})
        told = {"took_ms": (time.perf_counter() - begun) * 1000, "model": {"version": "plain"}}
        return (results[0] if asked.queries is None else {"results": results}) | told

    return app


if __name__ == "__main__":
    uvicorn.run(plain(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
