"""Services that use secrets and configs: these must be there, and stay while they are used."""

import base64
from pathlib import Path
from typing import Any

from tests.unit.manager.api.serving import serving
from tests.unit.manager.api.test_services import created


def using(kind: str, identity: str, name: str = "one") -> dict[str, Any]:
    reference = {f"{kind}ID": identity, f"{kind}Name": name, "File": {"Name": "f"}}
    container = {"Image": "busybox", f"{kind}s": [reference]}
    return {"Name": "web", "TaskTemplate": {"ContainerSpec": container}}


async def test_in_use_they_cannot_be_removed(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        for kind, path in (("Secret", "secrets"), ("Config", "configs")):
            data = base64.b64encode(b"x").decode()
            said = {"Name": "one", "Data": data}
            _, made = await client.ask("POST", f"/{path}/create", said)
            for identity, name in (("nosuch", "one"), (made["ID"], "other")):
                body = using(kind, identity, name)
                status, answer = await client.ask("POST", "/services/create", body)
                assert status == 400
                sentence = f"ContainerSpec.{kind}s: {kind.lower()} not found: {name}"
                assert answer["message"].endswith(f"desc = TaskTemplate.{sentence}")
            await created(client, using(kind, made["ID"]))
            status, answer = await client.ask("DELETE", f"/{path}/one")
            assert status == 400
            in_use = f"{kind.lower()} 'one' is in use by the following service: web"
            assert answer["message"].endswith(f"desc = {in_use}")
            assert (await client.ask("DELETE", "/services/web"))[0] == 200
            assert (await client.ask("DELETE", f"/{path}/one"))[0] == 204


async def test_templates_are_looked_at_when_they_are_made(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        for text, expected in (("{{.Service.Name}}", 201), ("{{range .}}{{end}}", 501)):
            body = {
                "Name": "tpl",
                "Data": base64.b64encode(text.encode()).decode(),
                "Templating": {"Name": "golang"},
            }
            assert (await client.ask("POST", "/configs/create", body))[0] == expected
