"""Requests to the Kubernetes API: who we say we are, what is asked, what failures become."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path

import pytest
from aiohttp import web

from controller import __version__
from controller.adapters.kubernetes import client
from controller.adapters.kubernetes.client import ApiError, Cluster, path_of
from controller.adapters.kubernetes.session import ConnectError
from tests.kubernetes.fake_api import TOO_DEEP, FakeApi, connected, kubeconfig, serving, status
from tests.kubernetes.tasks import until


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (("v1", "services"), "/api/v1/services"),
        (("v1", "services", "shop", "php"), "/api/v1/namespaces/shop/services/php"),
        (("apps/v1", "deployments", "shop"), "/apis/apps/v1/namespaces/shop/deployments"),
        (("a.com/v1", "things", "shop", "x", "status"), "/apis/a.com/v1/namespaces/shop/things/x/status"),
        (("v1", "nodes", "", "a b"), "/api/v1/nodes/a%20b"),
    ],
)
def test_paths_are_those_of_the_api(given: tuple[str, ...], path: str) -> None:
    assert path_of(*given) == path


async def test_a_request_says_who_asks_and_returns_the_body_as_it_is(api: FakeApi, cluster: Cluster) -> None:
    api.answer = lambda request: web.Response(body=b"[1, 2]")

    body = await cluster.request("GET", "/version", query={"pretty": "false"})

    assert body == b"[1, 2]"
    assert api.requests == [("GET", "/version?pretty=false", None)]
    assert api.headers[0]["User-Agent"] == f"spillway/{__version__}"


async def test_each_way_to_write_has_its_content_type_and_our_field_manager(api: FakeApi, cluster: Cluster) -> None:
    api.answer = lambda request: web.json_response({"kind": "Thing"})
    operations = [{"op": "remove", "path": "/spec/selector"}]

    assert await cluster.create("/a", {"x": 1}) == {"kind": "Thing"}
    await cluster.merge_patch("/a", {"x": None})
    await cluster.json_patch("/a", operations)
    await cluster.apply("/a", {"x": 2})
    await cluster.apply("/a", {"x": 3}, manager="other", force=False)
    await cluster.delete("/a", uid="u-1")
    await cluster.delete("/a", version="7")

    assert api.requests == [
        ("POST", "/a?fieldManager=spillway", {"x": 1}),
        ("PATCH", "/a?fieldManager=spillway", {"x": None}),
        ("PATCH", "/a?fieldManager=spillway", operations),
        ("PATCH", "/a?fieldManager=spillway&force=true", {"x": 2}),
        ("PATCH", "/a?fieldManager=other&force=false", {"x": 3}),
        ("DELETE", "/a", {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "u-1"}}),
        ("DELETE", "/a", {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"resourceVersion": "7"}}),
    ]
    kinds = ["json", "merge-patch+json", "json-patch+json", "apply-patch+yaml", "apply-patch+yaml", "json", "json"]
    assert [headers["Content-Type"] for headers in api.headers] == [f"application/{kind}" for kind in kinds]


async def test_a_refusal_has_the_servers_own_words(api: FakeApi, cluster: Cluster) -> None:
    api.answer = lambda request: status(409, "Conflict", "somebody else was faster")

    with pytest.raises(ApiError) as caught:
        await cluster.get("/a")

    assert (caught.value.status, caught.value.reason) == (409, "Conflict")
    assert str(caught.value) == "Conflict: somebody else was faster"


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [(502, "<html>bad gateway", "BadGateway"), (599, "", "Http599"), (503, "[]", "ServiceUnavailable")],
)
async def test_a_refusal_that_is_not_kubernetes_has_the_words_of_http(
    api: FakeApi, cluster: Cluster, code: int, text: str, reason: str
) -> None:
    api.answer = lambda request: web.Response(status=code, text=text)

    with pytest.raises(ApiError) as caught:
        await cluster.get("/a")

    assert (caught.value.status, caught.value.reason, caught.value.message) == (code, reason, text)


async def test_what_is_not_there_is_deleted_already(api: FakeApi, cluster: Cluster) -> None:
    api.answer = lambda request: status(404, "NotFound")

    await cluster.delete("/a")


async def test_another_object_of_that_name_is_not_deleted(api: FakeApi, cluster: Cluster) -> None:
    api.answer = lambda request: status(409, "Conflict", "the UID in the precondition does not match")

    with pytest.raises(ApiError, match="does not match"):
        await cluster.delete("/a", uid="u-1")


@pytest.mark.parametrize("text", ["<html>hello", TOO_DEEP], ids=["page", "too deep"])
async def test_an_answer_that_is_no_object_is_an_error(api: FakeApi, cluster: Cluster, text: str) -> None:
    api.answer = lambda request: web.Response(text=text)

    with pytest.raises(ApiError, match="no JSON object"):
        await cluster.get("/a")


async def test_no_answer_in_time_is_an_error_without_a_status(api: FakeApi, cluster: Cluster) -> None:
    with pytest.raises(ApiError) as caught:  # the fake's watch says nothing
        await cluster.request("GET", "/a", query={"watch": "", "resourceVersion": "100"}, timeout_s=0.05)

    assert (caught.value.status, caught.value.reason) == (0, "Timeout")


async def test_a_server_that_is_not_there_is_an_error_without_a_status(tmp_path: Path) -> None:
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        cluster = await Cluster.connect(kubeconfig(tmp_path / "k", f"http://127.0.0.1:{bound.getsockname()[1]}"))

        with pytest.raises(ApiError) as caught:
            await cluster.get("/a")
    await cluster.close()

    assert (caught.value.status, caught.value.reason) == (0, "Unreachable")


async def test_only_so_many_requests_are_on_their_way(api: FakeApi, cluster: Cluster) -> None:
    waiting = [
        asyncio.create_task(cluster.request("GET", "/a", query={"watch": "", "resourceVersion": "100"}))
        for _ in range(client.AT_ONCE + 5)
    ]
    await until(lambda: len(api.watches) == client.AT_ONCE)
    for _ in range(20):
        await asyncio.sleep(0)

    assert len(api.requests) == client.AT_ONCE
    lease = path_of("coordination.k8s.io/v1", "leases", "shop", "leader")
    await asyncio.wait_for(cluster.get(lease), timeout=30)  # who leads does not wait for them
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_watch_gives_lines_however_they_are_cut(api: FakeApi, cluster: Cluster) -> None:
    lines: list[bytes] = []
    async with cluster.watch("/a", {"resourceVersion": "100", "timeoutSeconds": "60"}) as events:
        api.send_raw(b'{"a":1}\n{"b"')
        lines.append(await anext(events))
        api.send_raw(b":2}\n" + b"x" * 1_000_000 + b"\n")
        lines.append(await anext(events))
        lines.append(await anext(events))

    assert lines[:2] == [b'{"a":1}', b'{"b":2}']
    assert len(lines[2]) == 1_000_000


async def test_a_watch_that_breaks_off_says_so(api: FakeApi, cluster: Cluster) -> None:
    async def watch() -> None:
        async with cluster.watch("/a", {"resourceVersion": "100", "timeoutSeconds": "60"}) as events:
            api.cut()
            await anext(events)

    with pytest.raises(ApiError) as caught:
        await watch()

    assert caught.value.reason == "Unreachable"


async def test_refused_credentials_are_read_anew_and_the_request_repeated(api: FakeApi, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    good = "Bearer new"
    api.answer = lambda request: (
        web.json_response({}) if request.headers["Authorization"] == good else status(401, "Unauthorized")
    )
    async with connected(api, tmp_path, tokenFile=str(token)) as cluster:
        token.write_text("new")

        await asyncio.gather(cluster.get("/a"), cluster.get("/b"))

        good = "Bearer newer"
        with pytest.raises(ApiError, match="Unauthorized"):  # not again so soon
            await cluster.get("/c")
    assert len(api.requests) == 5


async def test_what_goes_on_with_old_credentials_is_not_broken_off(api: FakeApi, tmp_path: Path) -> None:
    refusals = iter([status(401, "Unauthorized")])
    query = {"resourceVersion": "100", "timeoutSeconds": "60"}
    async with connected(api, tmp_path) as cluster, cluster.watch("/a", query) as events:
        api.answer = lambda request: next(refusals, web.json_response({}))
        await cluster.get("/b")

        api.send_raw(b"{}\n")
        assert await anext(events) == b"{}"


async def test_an_exec_plugin_gives_the_token(api: FakeApi, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    version = "client.authentication.k8s.io/v1"
    plugin.write_text(
        f'#!/bin/sh\necho \'{{"apiVersion":"{version}","kind":"ExecCredential","status":{{"token":"t"}}}}\'\n'
    )
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    api.answer = lambda request: web.json_response({"token": request.headers["Authorization"]})

    async with connected(api, tmp_path, exec={"apiVersion": version, "command": str(plugin)}) as cluster:
        assert await cluster.get("/a") == {"token": "Bearer t"}


async def test_an_exec_plugin_that_failed_is_run_again(api: FakeApi, tmp_path: Path) -> None:
    """Without its token we are anonymous, which the API server answers with 403, not 401."""
    plugin = tmp_path / "plugin"
    plugin.write_text("#!/bin/sh\nexit 1\n")
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    version = "client.authentication.k8s.io/v1"
    answer = f'{{"apiVersion":"{version}","kind":"ExecCredential","status":{{"token":"t"}}}}'
    api.answer = lambda request: (
        web.json_response({}) if "Authorization" in request.headers else status(403, "Forbidden", "system:anonymous")
    )
    async with connected(api, tmp_path, exec={"apiVersion": version, "command": str(plugin)}) as cluster:
        plugin.write_text(f"#!/bin/sh\necho '{answer}'\n")

        assert await cluster.get("/a") == {}


async def test_a_netrc_that_names_every_host_is_not_ours(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    api.answer = lambda request: web.json_response({})
    async with connected(api, tmp_path, token="t") as cluster:
        await cluster.get("/a")
    assert api.headers[0]["Authorization"] == "Bearer t"


@pytest.mark.parametrize(("exempt", "arrives"), [("", True), ("example.com,127.0.0.1", False)])
async def test_the_environment_names_a_proxy(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exempt: str, arrives: bool
) -> None:
    api.answer = lambda request: web.json_response({})
    async with serving(FakeApi()) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", exempt)
        proxy.answer = api.answer
        async with connected(api, tmp_path) as cluster:
            await cluster.get("/a")
        assert (len(proxy.requests), len(api.requests)) == ((1, 0) if arrives else (0, 1))


async def test_the_namespace_is_the_contexts(api: FakeApi, cluster: Cluster) -> None:
    assert cluster.namespace == "shop"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no kubeconfig at"),
        ("a: b: c", "mapping values"),
        ("{}", "current-context"),
        ("current-context: x\ncontexts: []", "x"),
    ],
)
async def test_a_kubeconfig_that_cannot_be_used_is_a_sentence(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)

    with pytest.raises(ConnectError, match=words):
        await Cluster.connect(path)


async def test_the_environment_names_the_kubeconfig(
    api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "not-there"
    monkeypatch.setenv("KUBECONFIG", f"{other}:{kubeconfig(tmp_path / 'k', api.url)}")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    api.answer = lambda request: web.json_response({"ok": True})

    cluster = await Cluster.connect()

    assert await cluster.get("/a") == {"ok": True}
    await cluster.close()


async def test_a_pod_without_its_service_account_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")

    with pytest.raises(ConnectError, match="token file does not exist"):
        await Cluster.connect()
