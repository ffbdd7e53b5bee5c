"""Versions come and go without Ray: what is handed over, what stays when one does not load, what a restart finds."""

import asyncio
import json
import secrets
import shutil

import pytest

from retreever.data.dataset import Passage
from retreever.service.controller.bundle_changes import changes
from retreever.service.controller.bundle_copies import Copies
from retreever.service.controller.controller import Keeper, Wanted
from retreever.service.encoder.text_encoder import Encoding
from retreever.service.encoder.text_router import Routing
from retreever.service.refusal import Refused
from retreever.service.version.answers import Answers
from retreever.service.version.engine import Engine

NEW = Passage("new", "ba be bi ba be bi", "", {"half": 7})


class LocalEngine(Engine):
    async def total(self):
        return super().total()


class LocalStarter:
    """Versions in this process."""

    def __init__(self):
        self.up, self.broken = {}, set()

    async def start(self, app, folder, version):
        if version in self.broken:
            raise RuntimeError("no memory is left")
        self.up[app] = LocalEngine(Answers.open(folder, version), Routing(Encoding(folder, 1)).route)

    async def stop(self, app):
        self.up.pop(app, None)

    async def running(self):
        return list(self.up)

    def engine(self, app):
        return self.up[app]


@pytest.fixture
def place(served, tmp_path):
    """A workspace, and two bundles: the second one lacks what its index never had, passages 290 and on."""
    workspace, bundle = served
    first = shutil.copytree(bundle, tmp_path / "first")
    second = shutil.copytree(bundle, tmp_path / "second")
    index = Answers.open(second, "x")
    index.delete([f"p{n:04d}" for n in range(290, 300)])
    return type(workspace).at(tmp_path / "workspace"), first, second


def keeper(place, model, starter, **wanted):
    return Keeper(Wanted(str(model), **wanted), place[0], starter, drain_s=0, again_s=0)


def ids(keeper, role="champion"):
    return set(keeper.starter.up[getattr(keeper.table, role).app].answers.retreever.index.ids)


def run(play):
    return asyncio.run(asyncio.wait_for(play, 120))


def test_live_documents_move_to_the_next_version_and_back(place):
    _, first, second = place

    async def play():
        own = keeper(place, first, LocalStarter())
        await own.check()
        assert own.table.champion.info.documents == 300 and own.table.faults == (None, None)
        assert isinstance(await own.add([NEW, Passage("other", "so sa")]), bytes)
        assert isinstance(await own.delete(["p0003", "other"]), bytes)
        assert isinstance(await own.delete(["p0295"]), bytes)  # which the second has not
        own.wanted = Wanted(str(second))
        await own.check()
        await asyncio.sleep(0.2)
        assert own.table.champion.asked == str(second) and len(own.starter.up) == 1
        assert "new" in ids(own) and not ids(own) & {"p0003", "other", "p0295"}
        await own.delete(["new"])
        await own.add([Passage("p0004b", "ti ta"), Passage("p0003", "changed")])
        own.wanted = Wanted(str(first))
        await own.check()
        assert not ids(own) & {"new", "p0295", "other"} and {"p0004b", "p0003", "p0299"} <= ids(own)
        held = own.starter.up[own.table.champion.app].answers.documents(["p0003"])
        assert held.documents[0].text == "changed"
        return own.table.champion.info.documents

    total = run(play())
    assert (
        Answers.open(first, "x").total == 300 and Answers.open(second, "x").total == 290
    )  # originals are never changed

    async def restarted():
        again = keeper(place, first, LocalStarter())
        await again.check()
        assert again.table.champion.info.documents == total and "p0004b" in ids(again)

    run(restarted())


def test_what_does_not_load_leaves_the_old_version_serving(place):
    _, first, second = place
    segment = next((second / "index" / "segments").iterdir())
    file = max(segment.glob("level_*.npy"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")

    async def play():
        own = keeper(place, first, LocalStarter())
        await own.check()
        own.wanted = Wanted(str(second))
        await own.check()
        assert own.table.champion.asked == str(first) and file.name in own.table.faults[0]
        assert isinstance(await own.add([NEW]), bytes) and len(own.starter.up) == 1
        own.wanted = Wanted(str(first / "nowhere"))
        await own.check()
        assert "nowhere" in own.table.faults[0] and "neither an MLflow URI" in own.table.faults[0]
        own.wanted = Wanted(str(first))
        await own.check()
        assert own.table.faults == (None, None)

    run(play())


def test_a_version_that_does_not_come_up_is_not_tried_again_and_again(place):
    async def play():
        own = keeper(place, place[1], LocalStarter())
        await own.check()
        own.wanted = Wanted(str(place[2]))
        own.starter.broken.add(str(place[2]))
        await own.check()
        assert "no memory is left" in own.table.faults[0]
        own.starter.broken.clear()
        await own.check()
        assert own.table.champion.asked == str(place[1])  # until somebody says so
        await own.check(force=True)
        assert own.table.champion.asked == str(place[2]) and own.table.faults == (None, None)

    run(play())


@pytest.mark.parametrize("name", ["model.safetensors", "documents.jsonl", "added.jsonl", "manifest.json"])
def test_damage_of_the_live_copy_is_told_and_nothing_is_thrown_away(place, name):
    workspace, first, _ = place

    async def play():
        own = keeper(place, first, LocalStarter())
        await own.check()
        await own.add([NEW])
        copies = Copies(workspace.root)
        folder = copies.folder(copies.current)
        for file in [f for f in folder.rglob(name) if f.parent.name not in ("explanation",)]:
            data = file.read_bytes()
            file.unlink()  # the original has the same bytes under its own name
            file.write_bytes(data[: len(data) // 2])
        again = keeper(place, first, LocalStarter())
        await again.check()
        assert again.table.champion is None and name in again.table.faults[0]
        assert isinstance(await again.add([NEW]), Refused)
        assert folder.is_dir()

    run(play())


def test_a_canary_lives_alike_and_may_become_champion(place):
    workspace, first, second = place

    async def play():
        own = keeper(place, first, LocalStarter(), canary=str(second), share=0.25)
        await own.check()
        assert (own.table.champion.info.share, own.table.canary.info.share) == (0.75, 0.25)
        await own.add([NEW])
        await own.delete(["p0295"])  # the canary never had it
        assert "new" in ids(own, "canary") and ids(own, "canary") == ids(own) - {f"p{n:04d}" for n in range(290, 300)}
        app = own.table.canary.app
        own.wanted = Wanted(str(second), canary=str(second), share=0.25)
        await own.check()
        await asyncio.sleep(0.2)
        assert own.table.champion.app == app and list(own.starter.up) == [app]
        assert "new" in changes(Copies(workspace.root).folder(own.table.champion.copy)).added

    run(play())


def test_a_canary_that_fails_harms_nobody(place):
    async def play():
        own = keeper(place, place[1], LocalStarter(), canary="models:/retreever@challenger", share=0.5)
        await own.check()
        assert own.table.canary is None and "no version has this alias" in own.table.faults[1]
        assert own.table.faults[0] is None and isinstance(await own.add([NEW]), bytes)

    run(play())


def test_writing_goes_on_while_versions_change_and_nothing_is_lost(place):
    async def play():
        own = keeper(place, place[1], LocalStarter())
        await own.check()
        done, stop = [], asyncio.Event()

        async def write():
            while not stop.is_set():
                name = secrets.token_hex(4)
                assert isinstance(await own.add([Passage(name, "ba be")]), bytes)
                done.append(name)
                await asyncio.sleep(0)

        writer = asyncio.create_task(write())
        for model in (place[2], place[1], place[2]):
            own.wanted = Wanted(str(model))
            await own.check()
            assert own.table.champion.asked == str(model)
        stop.set()
        await writer
        assert len(done) > 2 and set(done) <= ids(own)

    run(play())


def test_after_a_restart_the_version_before_serves_where_the_new_one_does_not_load(place):
    _, first, second = place

    async def play():
        own = keeper(place, first, LocalStarter())
        await own.check()
        await own.add([NEW])
        (second / "model.safetensors").write_bytes(b"x")
        again = keeper(place, second, LocalStarter())
        await again.check()
        assert "model.safetensors" in again.table.faults[0] and "new" in ids(again)
        assert again.table.champion.info.version == str(first)
        assert isinstance(await again.delete(["new"]), bytes)

    run(play())


def test_a_restart_after_a_crash_in_the_middle_of_a_swap_finds_the_old_one(place):
    async def play():
        own = keeper(place, place[1], LocalStarter())
        await own.check()
        await own.add([NEW])
        copies = Copies(place[0].root)
        copies.make(place[2], "half-done")  # and then the power went
        (copies.folder("half-done") / "copied.json").write_text(json.dumps({"base": 1}))
        again = keeper(place, place[2], LocalStarter())
        await again.check()
        await asyncio.sleep(0.2)
        assert "new" in ids(again) and {p.name for p in copies.folder("x").parent.iterdir()} == {copies.current}

    run(play())
