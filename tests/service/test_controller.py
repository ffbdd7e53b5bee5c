"""The controller without Ray: handing over, versions that fail to load, restarts."""

import asyncio
import json
import secrets
import shutil
from pathlib import Path

import pytest

from retreever.bundle.retriever import Retreever
from retreever.data.dataset import Passage
from retreever.service.controller.bundle_changes import read_changes
from retreever.service.controller.bundle_copies import BundleCopies
from retreever.service.controller.controller import Controller, DesiredVersions
from retreever.service.refusal import RefusalError
from retreever.service.version.engine import Engine

NEW = Passage("new", "ba be bi ba be bi", "", {"half": 7})


class Opener:
    """Opens versions, except the broken ones."""

    def __init__(self):
        self.broken = set()

    def __call__(self, folder, version):
        if version in self.broken:
            raise RuntimeError("no memory is left")
        return Engine.open(folder, version)


@pytest.fixture
def place(served, tmp_path):
    """A workspace and two bundles; the second lacks the passages from 290 on."""
    workspace, bundle = served
    first = shutil.copytree(bundle, tmp_path / "first")
    second = shutil.copytree(bundle, tmp_path / "second")
    Retreever.load(second, encoder=False).delete([f"p{n:04d}" for n in range(290, 300)])
    return type(workspace).at(tmp_path / "workspace"), first, second


def make_controller(place, model, opener=None, **wanted):
    desired = DesiredVersions(str(model), **wanted)
    return Controller(desired, place[0], opener or Opener(), retry_s=0, reader_expiry_s=0)


def ids(controller, role="champion"):
    index = Retreever.load(Path(getattr(controller.table, role).folder), encoder=False).index  # as a replica sees it
    return set(index.ids)


async def list_copies(controller):
    """The copies that are left once unused ones are removed."""
    await controller.retire_unused()
    return {folder.name for folder in BundleCopies(controller.workspace.root).get_folder("x").parent.iterdir()}


def run(play):
    return asyncio.run(asyncio.wait_for(play, 120))


def test_live_documents_move_to_the_next_version_and_back(place):
    _, first, second = place

    async def play():
        controller = make_controller(place, first)
        await controller.reconcile()
        assert controller.table.champion.info.documents == 300 and controller.table.faults == (None, None)
        assert isinstance(await controller.add([NEW, Passage("other", "so sa")]), bytes)
        assert isinstance(await controller.delete(["p0003", "other"]), bytes)
        assert isinstance(await controller.delete(["p0295"]), bytes)  # the second does not hold it
        controller.desired = DesiredVersions(str(second))
        await controller.reconcile()
        assert controller.table.champion.resolved_uri == str(second)
        assert await list_copies(controller) == {controller.table.champion.copy}
        assert "new" in ids(controller) and not ids(controller) & {"p0003", "other", "p0295"}
        await controller.delete(["new"])
        await controller.add([Passage("p0004b", "ti ta"), Passage("p0003", "changed")])
        controller.desired = DesiredVersions(str(first))
        await controller.reconcile()
        assert not ids(controller) & {"new", "p0295", "other"} and {"p0004b", "p0003", "p0299"} <= ids(controller)
        held = json.loads(
            await Engine.open(Path(controller.table.champion.folder), "x").read("read_documents", ["p0003"])
        )
        assert held["documents"][0]["text"] == "changed"
        return controller.table.champion.info.documents

    total = run(play())
    originals = [len(Retreever.load(folder, encoder=False).index) for folder in (first, second)]
    assert originals == [300, 290]  # never changed

    async def restart():
        restarted = make_controller(place, first)
        await restarted.reconcile()
        assert restarted.table.champion.info.documents == total and "p0004b" in ids(restarted)

    run(restart())


def test_the_old_version_keeps_serving_when_a_new_one_does_not_load(place):
    _, first, second = place
    segment = next((second / "index" / "segments").iterdir())
    file = max(segment.glob("level_*.npy"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")

    async def play():
        controller = make_controller(place, first)
        await controller.reconcile()
        controller.desired = DesiredVersions(str(second))
        await controller.reconcile()
        assert controller.table.champion.resolved_uri == str(first) and file.name in controller.table.faults[0]
        assert isinstance(await controller.add([NEW]), bytes)
        assert await list_copies(controller) == {controller.table.champion.copy}
        controller.desired = DesiredVersions(str(first / "nowhere"))
        await controller.reconcile()
        assert "nowhere" in controller.table.faults[0] and "neither an MLflow URI" in controller.table.faults[0]
        controller.desired = DesiredVersions(str(first))
        await controller.reconcile()
        assert controller.table.faults == (None, None)

    run(play())


def test_a_version_that_does_not_come_up_is_not_tried_again_and_again(place):
    async def play():
        opener = Opener()
        controller = make_controller(place, place[1], opener)
        await controller.reconcile()
        controller.desired = DesiredVersions(str(place[2]))
        opener.broken.add(str(place[2]))
        await controller.reconcile()
        assert "no memory is left" in controller.table.faults[0]
        opener.broken.clear()
        await controller.reconcile()
        assert controller.table.champion.resolved_uri == str(place[1])  # until a reload forces it
        await controller.reconcile(force=True)
        assert controller.table.champion.resolved_uri == str(place[2]) and controller.table.faults == (None, None)

    run(play())


@pytest.mark.parametrize("name", ["model.safetensors", "documents.jsonl", "added.jsonl", "manifest.json"])
def test_damage_of_the_live_copy_is_reported_and_nothing_is_removed(place, name):
    workspace, first, _ = place

    async def play():
        controller = make_controller(place, first)
        await controller.reconcile()
        await controller.add([NEW])
        copies = BundleCopies(workspace.root)
        folder = copies.get_folder(copies.current)
        for file in [f for f in folder.rglob(name) if f.parent.name not in ("explanation",)]:
            data = file.read_bytes()
            file.unlink()  # a hard link: the original keeps its bytes
            file.write_bytes(data[: len(data) // 2])
        restarted = make_controller(place, first)
        await restarted.reconcile()
        assert restarted.table.champion is None and name in restarted.table.faults[0]
        assert isinstance(await restarted.add([NEW]), RefusalError)
        assert folder.is_dir()

    run(play())


def test_a_canary_gets_all_changes_and_may_become_champion(place):
    workspace, first, second = place

    async def play():
        controller = make_controller(place, first, canary=str(second), share=0.25)
        await controller.reconcile()
        assert (controller.table.champion.info.share, controller.table.canary.info.share) == (0.75, 0.25)
        await controller.add([NEW])
        await controller.delete(["p0295"])  # the canary never had it
        assert "new" in ids(controller, "canary")
        assert ids(controller, "canary") == ids(controller) - {f"p{n:04d}" for n in range(290, 300)}
        copy = controller.table.canary.copy
        controller.desired = DesiredVersions(str(second), canary=str(second), share=0.25)
        await controller.reconcile()
        assert controller.table.champion.copy == copy and await list_copies(controller) == {copy}
        assert "new" in read_changes(BundleCopies(workspace.root).get_folder(controller.table.champion.copy)).added

    run(play())


def test_a_canary_that_fails_harms_nobody(place):
    async def play():
        controller = make_controller(place, place[1], canary="models:/retreever@challenger", share=0.5)
        await controller.reconcile()
        assert controller.table.canary is None and "no version has this alias" in controller.table.faults[1]
        assert controller.table.faults[0] is None and isinstance(await controller.add([NEW]), bytes)

    run(play())


def test_writing_goes_on_while_versions_change_and_nothing_is_lost(place):
    async def play():
        controller = make_controller(place, place[1])
        await controller.reconcile()
        done, stop = [], asyncio.Event()

        async def write():
            while not stop.is_set():
                name = secrets.token_hex(4)
                assert isinstance(await controller.add([Passage(name, "ba be")]), bytes)
                done.append(name)
                await asyncio.sleep(0)

        writer = asyncio.create_task(write())
        for model in (place[2], place[1], place[2]):
            controller.desired = DesiredVersions(str(model))
            await controller.reconcile()
            assert controller.table.champion.resolved_uri == str(model)
        stop.set()
        await writer
        assert len(done) > 2 and set(done) <= ids(controller)

    run(play())


def test_after_a_restart_the_old_version_serves_if_the_new_one_does_not_load(place):
    _, first, second = place

    async def play():
        controller = make_controller(place, first)
        await controller.reconcile()
        await controller.add([NEW])
        (second / "model.safetensors").write_bytes(b"x")
        restarted = make_controller(place, second)
        await restarted.reconcile()
        assert "model.safetensors" in restarted.table.faults[0] and "new" in ids(restarted)
        assert restarted.table.champion.info.version == str(first)
        assert isinstance(await restarted.delete(["new"]), bytes)

    run(play())


def test_a_restart_after_a_crash_amid_a_swap_finds_the_old_version(place):
    async def play():
        controller = make_controller(place, place[1])
        await controller.reconcile()
        await controller.add([NEW])
        copies = BundleCopies(place[0].root)
        copies.copy_bundle(place[2], "half-done")  # and then the power went
        (copies.get_folder("half-done") / "copied.json").write_text(json.dumps({"base": 1}))
        restarted = make_controller(place, place[2])
        await restarted.reconcile()
        assert "new" in ids(restarted) and await list_copies(restarted) == {copies.current}

    run(play())


def test_a_replica_that_has_not_noticed_a_swap_gets_every_change_and_keeps_its_copy(place):
    async def play():
        controller = make_controller(place, place[1])
        controller.reader_expiry_s, controller._started_at = 60, float("-inf")
        await controller.reconcile()
        old = controller.table.champion
        assert await controller.sync("replica", {old.copy}) == controller.table
        controller.desired = DesiredVersions(str(place[2]))
        await controller.reconcile()
        await controller.retire_unused()
        await controller.add([NEW])
        assert "new" in Retreever.load(Path(old.folder), encoder=False).index.ids
        assert old.copy in await list_copies(controller)
        await controller.sync("replica", {controller.table.champion.copy})
        assert await list_copies(controller) == {controller.table.champion.copy}

    run(play())
