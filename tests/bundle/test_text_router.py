"""Texts to nodes without torch: equal to the trained tree, made once, and light to open."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from retreever.bundle import text_router
from retreever.bundle.retriever import Retreever
from retreever.bundle.text_router import TextRouter, prepare_exports, prepare_exports_apart
from retreever.encoding.encoder import Encoder
from retreever.errors import BundleError
from retreever.system.workspace import WORKSPACE_VARIABLE
from retreever.trained_tree import load_model, save_model
from tests.support import tiny
from tests.support.bundles import tiny_bundle

HEAVY = ("torch", "transformers", "sklearn", "pandas", "matplotlib", "ray", "mlflow", "openvino_telemetry")
TEXTS = [query.text for query in tiny.tiny_dataset().queries[:30]]


def change_model(bundle: Path, folder: Path, **settings: object) -> Path:
    """The model of a bundle, with other settings."""
    tree, config = load_model(bundle)
    save_model(
        tree, config.with_overrides({name.replace("__", "."): value for name, value in settings.items()}), folder
    )
    return folder


@pytest.mark.parametrize("runtime", ["openvino", "onnx", "torch"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"tree__split": "cross_attention", "tree__d_emb": 8, "tree__d_k": 8, "tree__propagation": "consistent"}],
    ids=["linear", "attention"],
)
def test_it_routes_as_the_tree_does(place, tmp_path: Path, runtime: str, settings: dict[str, object]) -> None:
    bundle = tiny_bundle(*place, "-".join(map(str, settings.values())) or "defaults", **settings)
    router = TextRouter.load(change_model(bundle, tmp_path / "model", encoder__runtime=runtime), threads=1)
    assert (router.encoder.runtime.name, router._router.name) == (runtime, runtime)
    tree, config = load_model(bundle)
    encoder = Encoder.load(config.encoder.model_copy(update={"runtime": "torch"}))
    with torch.inference_mode():
        if settings:
            expected = tree(*map(torch.from_numpy, encoder.encode_tokens(TEXTS, "passage"))).exp()
        else:
            expected = tree(torch.from_numpy(encoder.encode_pooled(TEXTS, "passage"))).exp()
    found = router.route(TEXTS, "passage")
    assert found.dtype == np.float32 and router.tree.nodes == found.shape[1]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert router.route([]).shape == (0, router.tree.nodes)


def test_parts_of_a_batch_are_routed_as_the_whole(place, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    router = TextRouter.load(bundle)
    whole = router.route(TEXTS)
    monkeypatch.setattr(text_router, "ROUTED_NUMBERS", 3 * router.tree.nodes)
    np.testing.assert_allclose(router.route(TEXTS), whole, atol=1e-6)


def test_a_graph_that_differs_from_torch_is_not_used(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = change_model(bundle, tmp_path / "model", encoder__runtime="onnx")
    expected = TextRouter.load(model, exports=tmp_path / "exports").route(TEXTS)
    monkeypatch.setattr(text_router, "MAX_NODE_DIFFERENCE", -1.0)
    with caplog.at_level(logging.WARNING):
        router = TextRouter.load(model, exports=tmp_path / "exports")
    assert router._router.name == "torch" and "the graph in onnx differs by" in caplog.text
    np.testing.assert_allclose(router.route(TEXTS), expected, atol=1e-5)


def test_a_damaged_graph_is_named_and_made_anew(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = change_model(bundle, tmp_path / "model", encoder__runtime="onnx")
    TextRouter.load(model, exports=tmp_path)
    (graph,) = tmp_path.glob("*/tree.onnx")
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1])
    with caplog.at_level(logging.WARNING):
        TextRouter.load(model, exports=tmp_path)
    assert f"tree.onnx: {len(whole) - 1} bytes" in caplog.text and graph.read_bytes() == whole


def test_exports_are_prepared_once(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE_VARIABLE, str(tmp_path))
    model = change_model(bundle, tmp_path / "model", encoder__runtime="onnx")
    prepare_exports_apart(model)
    assert {path.name for path in tmp_path.glob("exports/*/*.onnx")} == {"encoder.onnx", "tree.onnx"}
    for name in ("_write_tree_export", "open_graph"):
        monkeypatch.setattr(text_router, name, lambda *given: pytest.fail("made again"))
    monkeypatch.setattr(subprocess, "run", lambda *given, **more: pytest.fail("started again"))
    prepare_exports_apart(model)
    prepare_exports(model)
    (model / "model.json").unlink()
    with pytest.raises(BundleError, match=r"model\.json: file is missing"):
        prepare_exports_apart(model)


def test_a_bundle_is_searched_without_torch(bundle: Path, tmp_path: Path) -> None:
    prepare_exports(bundle, tmp_path / "exports")
    expected = Retreever.load(bundle, exports=tmp_path / "exports").search(TEXTS[:3], k=4)
    script = (
        "import json, sys\nimport retreever.bundle.retriever as bundles\n"
        f"heavy = lambda: sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "imported = heavy()\n"
        "retreever = bundles.Retreever.load(sys.argv[1], threads=1)\n"
        "found = [[hit.id for hit in hits] for hits in retreever.search(json.loads(sys.argv[2]), k=4)]\n"
        "retreever.explanation.read_sharply(retreever.embed(['ba']))\n"
        "print(json.dumps([imported, heavy(), found, retreever.encoder.runtime.name]))\n"
    )
    command = [sys.executable, "-c", script, str(bundle), json.dumps(TEXTS[:3])]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, WORKSPACE_VARIABLE: str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    imported, used, found, runtime = json.loads(done.stdout)
    assert (imported, used) == ([], []) and runtime in ("openvino", "onnx")
    assert found == [[hit.id for hit in hits] for hits in expected]
