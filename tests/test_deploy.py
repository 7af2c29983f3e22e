"""The files of deploy/ name what exists: options, extras, routes, files and ports."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="deploy/ has YAML; install jinfer[serve]")

from jinfer.config import EngineConfig  # noqa: E402
from jinfer.options import options_of  # noqa: E402
from jinfer.server.limits import ServerLimits  # noqa: E402
from jinfer.server.options import ServerOptions  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]
DEPLOY = REPOSITORY / "deploy"
DOCKERFILES = sorted((DEPLOY / "docker").glob("Dockerfile*"))
BASE = DEPLOY / "kubernetes" / "base"
PORT = 8000


class ComposeLoader(yaml.SafeLoader):
    """YAML with compose's tag !reset, which takes a value of another file back."""


ComposeLoader.add_constructor("!reset", lambda loader, node: None)


def read(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), ComposeLoader)


def option_names() -> set[str]:
    parts = (ServerOptions, ServerLimits)
    return {each.name for part in parts for each in options_of(part)} | set(EngineConfig.options())


def flags(words: list[str]) -> set[str]:
    return {word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_copies_and_installs_what_there_is(path):
    text = path.read_text(encoding="utf-8")
    copied = [
        name for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE) for name in line.split()
    ]
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied
    assert [name for name in copied if not (REPOSITORY / name).exists() or f"!{name}" not in ignored] == []
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = re.findall(r'"\.\[(.+?)\]"', text)[0].split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    words = re.findall(r'"(.*?)"', re.findall(r"^ENTRYPOINT \[(.*)\]$", text, re.MULTILINE)[0])
    assert words[:2] == ["jinfer", "serve"]
    assert flags(words) <= option_names()
    assert f"EXPOSE {PORT}\n" in text
    assert f":{PORT}/health" in text


def test_compose_uses_files_that_exist():
    compose = read(DEPLOY / "compose" / "compose.yaml")
    over = read(DEPLOY / "compose" / "compose.cpu.yaml")
    for service in (compose["services"]["jinfer"], over["services"]["jinfer"]):
        assert (REPOSITORY / service["build"]["dockerfile"]).is_file()
    assert set(over["services"]) <= set(compose["services"])
    mounted = [volume.split(":")[0] for each in compose["services"].values() for volume in each["volumes"]]
    files = [name for name in mounted if name.startswith("..")]
    assert [name for name in files if not (DEPLOY / "compose" / name).exists()] == []
    assert set(mounted) - set(files) <= set(compose["volumes"])
    published = [port for each in compose["services"].values() for port in each["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_prometheus_and_grafana_find_the_server():
    targets = read(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"][0]["static_configs"][0]
    assert targets["targets"] == [f"jinfer:{PORT}"]
    source = read(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")["datasources"][0]
    assert source["uid"] == "prometheus"


def test_the_kustomize_base_is_whole():
    base = read(BASE / "kustomization.yaml")
    assert all((BASE / name).is_file() for name in base["resources"])
    assert set(read(BASE / "serve.yaml")) <= option_names()
    assert read(BASE / "serve.yaml")["port"] == PORT
    assert all((BASE / name).is_file() for each in base["configMapGenerator"] for name in each["files"])


def test_the_pod_has_time_to_end_and_asks_the_open_route():
    pod = read(BASE / "deployment.yaml")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["terminationGracePeriodSeconds"] > ServerOptions().grace_s
    assert container["ports"] == [{"name": "http", "containerPort": PORT}]
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]
    assert probes == [{"path": "/health", "port": "http"}] * 3
    assert flags(container["args"]) <= option_names() | {"config"}
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    claims = [
        each["persistentVolumeClaim"]["claimName"]
        for each in pod["volumes"]
        if "persistentVolumeClaim" in each
    ]
    assert claims == [read(BASE / "cache.yaml")["metadata"]["name"]]
