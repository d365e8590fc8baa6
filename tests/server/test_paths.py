"""No field and no address reads what lies outside the allowed folders, or says what is there."""

import asyncio

import pytest

from hardening.client import Session
from hardening.sessions import picture
from tests.server.test_defaults import ask

PRIVATE = "the notes of somebody else"
REFUSED = "not in a folder that may be read here"


@pytest.fixture(scope="module")
def places(server):
    """An allowed folder with ways out of it, and what must not be reached."""
    allowed, outside = server.log.parent / "allowed", server.log.parent / "outside"
    (allowed / "photos").mkdir(parents=True)
    outside.mkdir()
    (allowed / "photos" / "0.png").write_bytes(picture(0))
    (outside / "private.png").write_bytes(picture(1))
    (outside / "secret.txt").write_text(PRIVATE)
    (allowed / "link").symlink_to(outside)
    (allowed / "photos" / "linked.png").symlink_to(outside / "private.png")
    (allowed / "inside").symlink_to(allowed / "photos")
    (allowed / "loop").symlink_to("loop")
    bad = ["a\0b.png", "a\0b/c.png", "loop/x.png"]  # each costs only its own line
    lines = [*bad, "photos/0.png", "../outside/private.png", str(outside / "private.png"), "link/private.png"]
    (allowed / "list.txt").write_text("\n".join(lines))
    (allowed / "list.csv").write_text("path,label\n" + "\n".join(f"{line},cat" for line in lines))
    return allowed


def outside_paths(allowed):
    """Paths outside, each with one that is just as far outside and has nothing there."""
    outside = allowed.parent / "outside"
    return [
        (str(outside), str(outside) + "-not"),
        (str(outside / "secret.txt"), str(outside / "not.txt")),
        (f"{allowed}/../outside", f"{allowed}/../not"),
        (f"{allowed}/link", f"{allowed}/link/not"),
        (f"{allowed}/link/private.png", f"{allowed}/link/../outside/not.png"),
        ("/etc/passwd", "/etc/not"),
        ("~", "~/not"),
        ("/proc/self/environ", "/proc/self/not"),
        (f"{allowed}-", f"{allowed}--"),
        ("a" * 4000, "/" + "b" * 4000),
        (f"{allowed}\x00/photos", "\x00"),
    ]


async def find(session, field):
    """Open the part of the data page that has a field."""
    await session.set("button_group", "What to look at", [FIELDS[field]])
    if field.startswith("path of the checkpoint"):
        await session.set("button_group", "Model", ["own checkpoint"])


async def say(session, field, path):
    """Type a path into a field; return what the page answers."""
    session.give(session.widget("text_input", field).id, path)
    if field.startswith("path of the checkpoint"):
        await session.rerun()
    else:
        await session.press("Add")
    return session.texts()


FIELDS = {
    "path of a folder, a zip, or a list of images (.txt, .csv)": "Own images",
    "path of the checkpoint (safetensors, or weights saved by torch.save)": "Own images",
    "path of a features file": "Own features",
}


@pytest.mark.parametrize("field", FIELDS)
def test_no_field_reads_outside_or_tells_what_is_there(run, opened, places, field):
    async def journey():
        session = await opened()
        await find(session, field)
        answers = []
        for pair in outside_paths(places):
            answers.append([await say(session, field, path) for path in pair])
        await session.close()
        return answers

    for there, nothing in run(journey()):
        assert REFUSED in there.replace("\\", "")
        assert there == nothing
        assert PRIVATE not in there


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "photos", "inside"])
def test_a_list_or_folder_yields_only_what_lies_in_it(run, opened, places, name):
    async def journey():
        session = await opened()
        field = next(iter(FIELDS))
        await find(session, field)
        await say(session, field, str(places / name))
        while "images: " not in session.texts():
            await asyncio.sleep(0.2)
            await session.rerun()
        await session.close()
        return session.texts()

    assert "images: 1," in run(journey())


TRAVERSALS = (
    "/media/../../../../etc/passwd",
    "/media/%2e%2e/%2e%2e/etc/passwd",
    "/media/..%2f..%2fetc%2fpasswd",
    "/component/nnguide_map/../../../app.py",
    "/component/%2e%2e/app.py",
    "/_stcore/bidi-components/nnguide_map/../../../etc/passwd",
    "/_stcore/bidi-components/nnguide_map/%2e%2e%2f%2e%2e%2fstate.py",
    "/_stcore/bidi-components/nnguide_map/component.js",
    "/_stcore/bidi-components/..%2f..%2fapp.py",
    "/app/static/../../app.py",
    "/app/static/app.py",
    "/static/../../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "//etc/passwd",
    "/..\\..\\etc\\passwd",
    "/.streamlit/config.toml",
    "/.git/config",
    "/app.py",
    "/views/state.py",
    "/_stcore/upload_file/x/../../../etc/passwd",
)


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_address_reads_a_file_of_the_disk(server, path):
    status, _, body = ask(server, path)
    assert b"root:" not in body
    assert b"import streamlit" not in body
    assert b"[server]" not in body
    assert b"repositoryformatversion" not in body
    # What is no file is the page itself, which then says that it has no such page.
    assert status in (400, 403, 404, 405) or b'<div id="root">' in body or status == 307


@pytest.mark.parametrize(
    "query",
    [
        "run=../../etc/passwd",
        "run=%2Fetc%2Fpasswd",
        "run=%00",
        "run=' OR 1=1 --",
        "run=" + "f" * 5000,
        "image=../../../etc/passwd",
        "image=" + "0" * 64,
        "k=99999999999999999999",
        "k=-1",
        "k=1e3",
        "k=²",
        "threshold=value:nan",
        "threshold=value:inf",
        "threshold=__class__:1",
        "threshold=id_kept:1e400",
        "run=a&run=b",
    ],
)
def test_an_address_that_someone_made_up_shows_the_demo_or_a_sentence(run, server, query):
    async def journey():
        session = await Session(server.url, query=query).open()
        await session.close()
        return session

    session = run(journey())
    assert session.all("exception") == []
    said = session.texts()
    assert "is not in this workspace" in said or "model demo" in said
    assert "passwd" not in said


def test_a_page_name_that_is_none_shows_the_first_page_and_reads_nothing(run, server):
    async def journey():
        shown = []
        for page in ("../views/state", "app.py", "/etc/passwd", "pages/scores.py"):
            session = await Session(server.url).open(page=page)
            shown.append(session.texts())
            await session.close()
        return shown

    for said in run(journey()):
        assert "Is this image from" in said


def test_uploads_and_downloads_of_a_session_are_not_found_by_others_without_their_full_names(
    server, run, opened
):
    async def journey():
        session = await opened()
        path = f"/_stcore/upload_file/{session.id}/"
        assert await asyncio.to_thread(session.put, f"{path}1", "a", PRIVATE.encode()) == 204
        names = (f"{path}1", path, "/media/", f"/media/{'0' * 64}.png", "/media/1", f"/media/{session.id}")
        answers = [ask(server, each)[2] for each in names]
        await session.close()
        return answers

    assert not any(PRIVATE.encode() in body for body in run(journey()))
