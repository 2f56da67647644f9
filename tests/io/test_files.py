from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from file_hosts import MP4, PNG, REF, WAYS, FileHost, Handler, file_host, names, serving
from kling_async import media
from kling_async.errors import DownloadError
from kling_async.files._part import EXTENSIONS
from kling_async.models import Audio, Image, TaskRef, Video

pytestmark = pytest.mark.usefixtures("nothing_is_left")

host = pytest.fixture(file_host, params=WAYS)


async def test_saving(host: FileHost, tmp_path: Path) -> None:
    """A result is saved whole, under the task's id, into a directory that is made for it; nothing else is left there."""
    target = tmp_path / "deep" / "er"
    saved = await host.files.save([host.video(serving())], target, ref=REF)
    assert saved == (target / "8800.mp4",)
    assert saved[0].read_bytes() == MP4
    assert names(target) == ["8800.mp4"]


async def test_nothing_to_save(host: FileHost, tmp_path: Path) -> None:
    """No entries are no files, and no directory."""
    assert await host.files.save([], tmp_path / "out") == ()
    assert not (tmp_path / "out").exists()


async def test_many_entries(host: FileHost, tmp_path: Path) -> None:
    """Several entries are numbered in their order, whatever order they come in; a few are fetched at a time."""
    under_way = at_most = 0

    def slowly(data: bytes, seconds: float) -> Handler:
        async def handle(_request: web.Request) -> web.Response:
            nonlocal under_way, at_most
            under_way += 1
            at_most = max(at_most, under_way)
            await asyncio.sleep(seconds)
            under_way -= 1
            return web.Response(body=data)

        return handle

    images = []
    for number in range(20):
        host.handlers[f"/{number}"] = slowly(PNG + bytes([number]), 20 - number)
        images.append(Image(index=number, url=f"{host.url}/{number}"))
    saved = await host.files.save(images, tmp_path, ref=REF)
    assert [path.name for path in saved] == [f"8800-{number}.png" for number in range(20)]
    assert [path.read_bytes()[-1] for path in saved] == list(range(20))
    assert at_most == 8


@pytest.mark.parametrize(
    ("entry", "ref", "name"),
    [
        (Video(id="900", url="u"), REF, "8800"),
        (Video(id="900", url="u"), None, "900"),
        (Audio(id="a/../b c", url="u"), None, "a____b_c-9f3fd56c"),
        (Video(id="../../etc/x", url="u"), None, "______etc_x-56da1a2e"),
        (Video(id="x" * 500, url="u"), None, "x" * 96 + "-c38c2bf3"),
        (Video(id="\u202egnp.exe\0", url="u"), None, "_gnp_exe_-798f5638"),
        (Video(id="CON", url="u"), None, "CON"),
    ],
)
@pytest.mark.row("N5")
async def test_names_are_made_here(host: FileHost, tmp_path: Path, entry: Video | Audio, ref: TaskRef | None, name: str) -> None:
    """A file is named after its task or its own id, reduced to harmless characters, whatever link and headers say (P24)."""
    host.handlers["/%2e%2e%2fevil"] = host.handlers["/../evil"] = serving(
        headers={"Content-Disposition": 'attachment; filename="../evil.sh"'}
    )
    entry = type(entry)(id=entry.id, url=f"{host.url}/%2e%2e%2fevil")
    saved = await host.files.save([entry], tmp_path / "out", ref=ref)
    assert [path.relative_to(tmp_path) for path in saved] == [Path("out") / f"{name}.mp4"]
    assert names(tmp_path) == ["out"]


async def test_entries_without_an_id(host: FileHost, tmp_path: Path) -> None:
    """A picture without a task is named after its link without the signature, so that it is known again."""
    host.handlers["/a"] = serving(PNG)
    first, second = Image(index=0, url=f"{host.url}/a?sign=1"), Image(index=0, url=f"{host.url}/a?sign=2")
    saved = await host.files.save([first], tmp_path)
    assert saved == await host.files.save([second], tmp_path)
    assert len(host.requests) == 1
    assert len(saved[0].stem) == 16


@pytest.mark.parametrize(
    ("data", "extension"),
    [
        (MP4, ".mp4"),
        (PNG, ".png"),
        (b"\xff\xd8\xff\xe0", ".jpg"),
        (b"RIFF\0\0\0\0WAVE", ".wav"),
        (b"<svg>", ".bin"),
        (b"<?xml version='1.0'?>\n<svg>", ".bin"),
        (b"MZ\x90", ".bin"),
    ],
)
@pytest.mark.row("N15")
async def test_the_extension_is_the_contents(host: FileHost, tmp_path: Path, data: bytes, extension: str) -> None:
    """The ending of a name comes from the first bytes, and not from what the host calls them (N15)."""
    (path,) = await host.files.save([host.video(serving(data, content_type="video/mp4"))], tmp_path, ref=REF)
    assert path.name == f"8800{extension}"


async def test_all_extensions_are_known() -> None:
    """Whatever ending a file may get is looked for when it may be there already."""
    assert {extension for _, extension, _ in media._MAGIC} | {".bin"} <= set(EXTENSIONS)


@pytest.mark.parametrize("name", ["8800.mp4", "8800.png"])
async def test_what_is_there_is_left_alone(host: FileHost, tmp_path: Path, name: str) -> None:
    """A file that is there counts as saved: it is neither fetched nor touched."""
    (tmp_path / name).write_bytes(b"mine")
    saved = await host.files.save([host.video(serving())], tmp_path, ref=REF)
    assert saved == (tmp_path / name,)
    assert saved[0].read_bytes() == b"mine"
    assert host.requests == []


async def test_overwriting(host: FileHost, tmp_path: Path) -> None:
    """When asked to, a file that is there is replaced as a whole."""
    (tmp_path / "8800.mp4").write_bytes(b"mine")
    (path,) = await host.files.save([host.video(serving())], tmp_path, ref=REF, overwrite=True)
    assert path.read_bytes() == MP4
    assert names(tmp_path) == ["8800.mp4"]


async def test_a_file_that_appears_meanwhile_is_left_alone(host: FileHost, tmp_path: Path) -> None:
    """Who is faster wins: a file that appeared during the download is kept, and nothing else is left."""

    async def handle(_request: web.Request) -> web.Response:
        (tmp_path / "8800.mp4").write_bytes(b"theirs")
        return web.Response(body=MP4)

    (path,) = await host.files.save([host.video(handle)], tmp_path, ref=REF)
    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["8800.mp4"]


@pytest.mark.row("N4")
async def test_saving_the_same_at_once(host: FileHost, tmp_path: Path) -> None:
    """Two saves of one result at the same time give one whole file."""
    video = host.video(serving())
    one, two = await asyncio.gather(*(host.files.save([video], tmp_path, ref=REF) for _ in range(2)))
    assert one == two == (tmp_path / "8800.mp4",)
    assert one[0].read_bytes() == MP4
    assert names(tmp_path) == ["8800.mp4"]


@pytest.mark.row("N4")
async def test_links_in_the_way(host: FileHost, tmp_path: Path) -> None:
    """A link under the name is replaced, never followed; a directory under the name is an error (N4)."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "8800.mp4").symlink_to(tmp_path / "precious")
    await host.files.save([host.video(serving())], tmp_path / "out", ref=REF)
    assert not (tmp_path / "precious").exists()
    (tmp_path / "dir" / "8800.mp4").mkdir(parents=True)
    with pytest.raises(DownloadError, match="cannot write"):
        await host.files.save([host.video(serving())], tmp_path / "dir", ref=REF)
    assert names(tmp_path / "dir") == ["8800.mp4"]
