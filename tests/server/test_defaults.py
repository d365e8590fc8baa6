"""What the server does by default: whom it answers, what it takes, what it never says."""

import asyncio
import http.client
import json
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from hardening.client import XSRF_COOKIE, Session, xsrf_token
from hardening.server import serve


def ask(server, path, method="GET", **headers):
    """Return the status, headers and body of an answer; the path goes out as it is, dots and all."""
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def handshake(server, run, **headers):
    """Return the status with which a websocket is refused, None where it is accepted."""
    address = f"ws://{urlsplit(server.url).netloc}/_stcore/stream"
    host = headers.pop("Host", None)

    async def knock():
        where = {"additional_headers": headers, "proxy": None, "subprotocols": ["streamlit"]}
        if host is not None:
            address_of_host = f"ws://{host}/_stcore/stream"
            place = socket.create_connection((urlsplit(server.url).hostname, urlsplit(server.url).port))
            opened = connect(address_of_host, sock=place, **where)
        else:
            opened = connect(address, **where)
        try:
            async with opened:
                return None
        except InvalidStatus as refused:
            return refused.response.status_code

    return run(knock())


def test_it_listens_on_this_machine_only(server):
    port = urlsplit(server.url).port
    listening = [fields for fields in sockets("tcp") if fields[3] == "0A"]
    assert [fields[1] for fields in listening if is_at(port, fields[1])] == [f"0100007F:{port:04X}"]
    assert [fields[1] for fields in sockets("tcp6") if is_at(port, fields[1])] == []


def sockets(kind):
    return [line.split() for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]


def is_at(port, address):
    return int(address.split(":")[1], 16) == port


def test_a_websocket_from_its_own_page_is_accepted(server, run):
    assert handshake(server, run, Origin=server.url) is None


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "null", "http://127.0.0.1.elsewhere.example"])
def test_a_websocket_from_a_page_elsewhere_is_refused(server, run, origin):
    assert handshake(server, run, Origin=origin) == 403


@pytest.mark.parametrize("host", ["elsewhere.example", "elsewhere.example:80", "localhost.elsewhere.example"])
def test_a_websocket_for_another_host_is_refused(server, run, host):
    assert handshake(server, run, Host=host, Origin=f"http://{host}") == 403


def test_no_page_elsewhere_may_read_an_answer(server):
    for path in ("/", "/_stcore/health", "/_stcore/host-config", "/_stcore/metrics"):
        _, headers, _ = ask(server, path, Origin="http://elsewhere.example")
        assert "Access-Control-Allow-Origin" not in headers, path


def test_an_upload_needs_the_token_of_the_cookie(server, run, opened):
    async def journey():
        session = await opened()
        path = f"/_stcore/upload_file/{session.id}/1"
        token = session.token
        answers = []
        for sent in (token, "", "2|00000000|0|0", xsrf_token(server.url)[:-2] + "00"):
            session.token = sent
            answers.append(await asyncio.to_thread(put_with_cookie, session, path, token))
        session.token = token
        await session.close()
        return answers

    assert run(journey()) == [204, 403, 403, 403]


def put_with_cookie(session, path, cookie):
    body = b'--e\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\nx\r\n--e--\r\n'
    connection = http.client.HTTPConnection(urlsplit(session.url).netloc, timeout=60)
    headers = {
        "Content-Type": "multipart/form-data; boundary=e",
        "Cookie": f"{XSRF_COOKIE}={cookie}",
        "X-Xsrftoken": session.token,
    }
    connection.request("PUT", path, body, headers)
    return connection.getresponse().status


def test_an_upload_for_a_session_that_is_not_there_is_refused(run, opened):
    async def journey():
        session = await opened()
        answer = await asyncio.to_thread(session.put, "/_stcore/upload_file/nobody/1", "a", b"x")
        await session.close()
        return answer

    assert run(journey()) == 400


def test_a_file_over_the_stated_limit_is_refused_before_it_is_read(server, run, opened):
    async def journey():
        session = await opened()
        headers = {
            "Content_Length": str(501 * 2**20),
            "Cookie": f"{XSRF_COOKIE}={session.token}",
            "X_Xsrftoken": session.token,
        }
        path = f"/_stcore/upload_file/{session.id}/1"
        answer = await asyncio.to_thread(ask, server, path, "PUT", **headers)
        await session.close()
        return answer[0]

    assert run(journey()) == 413


def test_no_usage_statistics_are_sent_and_no_developers_menu_is_shown(run, opened):
    async def journey():
        session = await opened()
        await session.close()
        return session.settings

    settings = run(journey())
    assert settings.gather_usage_stats is False
    assert settings.allow_run_on_save is False
    assert settings.ToolbarMode.Name(settings.toolbar_mode) == "VIEWER"


def test_no_program_may_drive_the_app_over_http_and_none_installs_anything(server, run, opened):
    for path in ("/_stcore/agent/interact", "/_stcore/agent/mcp"):
        status, _, body = ask(server, path, "POST", Content_Length="0")
        assert status in (400, 403)
        assert b"agent API" in body

    async def journey():
        session = await opened()
        asked = BackMsg()
        asked.backend_operation_request.request_id = "1"
        asked.backend_operation_request.session_id = session.id
        asked.backend_operation_request.install_skills.SetInParent()
        await session.send(asked)
        while (message := await session.receive()).WhichOneof("type") != "backend_operation_response":
            pass
        await session.close()
        return message.backend_operation_response.error_msg

    assert "not available" in run(journey())


def test_the_metrics_name_no_user_no_run_and_no_file(server):
    status, _, body = ask(server, "/_stcore/metrics")
    assert status == 200
    assert str(server.log.parent).encode() not in body
    assert not re.search(rb"[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}", body)


def test_nothing_watches_the_files_of_a_running_server(server):
    opened = [str(each.readlink()) for each in Path(f"/proc/{server.process.pid}/fd").iterdir()]
    assert len(opened) > 3
    assert not [each for each in opened if "inotify" in each]


def test_an_unexpected_error_shows_a_sentence_and_no_traceback(tmp_path, run):
    script = tmp_path / "broken.py"
    script.write_text("import streamlit as st\nst.title('here')\nraise OSError('/secret/place')\n")

    async def journey(url):
        session = await Session(url).open()
        shown = [each.value for each in session.all("exception")]
        await session.close()
        return shown

    with serve(tmp_path, script=script) as broken:
        (shown,) = run(journey(broken.url))
    said = json.dumps([shown.type, shown.message, list(shown.stack_trace)])
    assert "/secret/place" not in said
    assert "OSError" not in said
    assert "broken.py" not in said
    assert shown.message
