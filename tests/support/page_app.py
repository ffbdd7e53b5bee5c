"""The page and what it asks for around one bundle, without Ray: `python -m tests.support.page_app BUNDLE PORT`."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException

from retreever.retriever import Retreever
from serve.app import answer, api, describe
from serve.schema import SearchRequest
from serve.static import mount_page
from serve.tree_view import NodeView, TreeView, explain, flow_of, node_view, tree_view


class Asked(SearchRequest):
    explain: bool = False


def page_app(retreever: Retreever) -> FastAPI:
    app = api()

    @app.post("/v1/search")
    def search(request: Asked) -> dict[str, Any]:
        found = answer(retreever, request).model_dump()
        found["model"]["version"] = "7"
        if request.explain:
            query = retreever.nodes([request.query])[0]
            found["flow"] = flow_of(query)
            ways = explain(retreever, query, [hit["id"] for hit in found["hits"]], found["level"])
            for hit, why in zip(found["hits"], ways, strict=True):
                hit["why"] = why
        return found

    @app.get("/v1/tree")
    def tree() -> TreeView:
        return tree_view(retreever)

    @app.get("/v1/nodes/{id}")
    def node(id: int) -> NodeView:
        try:
            return node_view(retreever, id)
        except KeyError as error:
            raise HTTPException(404, error.args[0]) from None

    @app.get("/v1/model")
    def model() -> dict[str, Any]:
        champion = {
            **describe(retreever).model_dump(),
            "version": "7",
            "run_id": "0f3a",
            "link": "http://127.0.0.1/run",
        }
        return {"champion": champion, "canary": None, "fault": None, "canary_fault": None}

    mount_page(app)
    return app


if __name__ == "__main__":
    uvicorn.run(page_app(Retreever.load(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
