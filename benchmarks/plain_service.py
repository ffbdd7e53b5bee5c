"""Baseline of the service: FastAPI, uvicorn, the same encoder in the same runtime, and faiss's flat index.

    python -m benchmarks.plain_service BUNDLE PORT

It returns the same fields and texts. Its vectors are random, as the time of a flat search does not depend on them.
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


class PlainSearchRequest(BaseModel):
    """One query, or several."""

    query: str | None = Field(None, min_length=1, max_length=20_000)
    queries: list[str] | None = Field(None, min_length=1, max_length=64)
    k: int = Field(10, ge=1, le=1000)


def build_plain_app(bundle: Path) -> FastAPI:
    """Build the application."""
    loaded = Retreever.load(bundle, encoder=False)
    encoder = Encoder.load(loaded.config.encoder.model_copy(update={"words": 0.0}))
    vectors = np.random.default_rng(0).standard_normal((len(loaded.index), encoder.dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    encoder.encode_pooled(["warm up"], "query")
    app = FastAPI()

    @app.post("/v1/search")
    def search(request: PlainSearchRequest) -> dict[str, Any]:
        start = time.perf_counter()
        texts = request.queries or [request.query or ""]
        scores, rows = flat.search(encoder.encode_pooled(texts, "query"), request.k)
        results = []
        for text, own, similar in zip(texts, rows, scores, strict=True):
            hits = []
            for row, score in zip(own, similar, strict=True):
                passage = loaded.documents[int(row)]
                hits.append({"id": passage.id, "score": float(score), "title": passage.title, "text": passage.text})
            results.append({"query": text, "hits": hits})
        common = {"took_ms": (time.perf_counter() - start) * 1000, "model": {"version": "plain"}}
        return (results[0] if request.queries is None else {"results": results}) | common

    return app


if __name__ == "__main__":
    uvicorn.run(build_plain_app(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
