"""The examples in deploy/: what they start is what there is. They are not built here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from grace_st.cli.app import command_parser
from grace_st.cli.serve import COMMAND

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))


def instruction(name: str) -> list[str]:
    """The list that an instruction of the Dockerfile has."""
    (found,) = re.findall(rf"^{name} (\[.*\])$", DOCKERFILE, flags=re.MULTILINE)
    values: list[str] = json.loads(found)
    return values


def parsed(words: list[str]) -> Any:
    return command_parser("serve", COMMAND).parse_args(words)


def test_the_image_starts_the_server() -> None:
    program, command, *options = instruction("ENTRYPOINT")
    assert (program, command) == ("grace-st", "serve")
    arguments = parsed([*options, *instruction("CMD")])
    assert (arguments.host, arguments.port, arguments.model) == ("0.0.0.0", 8000, "/model")
    assert f"EXPOSE {arguments.port}" in DOCKERFILE and f":{arguments.port}/health" in DOCKERFILE
    assert f"mkdir {Path(arguments.store).parent}" in DOCKERFILE


def test_the_image_is_made_of_files_that_there_are() -> None:
    for words in re.findall(r"^COPY (.*)$", DOCKERFILE, flags=re.MULTILINE):
        for source in words.split()[:-1]:
            assert (ROOT / source).exists(), source


def test_compose_starts_what_the_image_has() -> None:
    (service,) = COMPOSE["services"].values()
    assert (ROOT / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    arguments = parsed([*instruction("ENTRYPOINT")[2:], *service["command"]])
    mounts = [volume.rpartition("}")[2].split(":")[1] for volume in service["volumes"]]
    assert mounts == [arguments.model, str(Path(arguments.store).parent)]
    assert service["ports"] == [f"127.0.0.1:{arguments.port}:8000"]
    # Docker kills what has not ended then.
    assert int(service["stop_grace_period"].removesuffix("s")) > arguments.grace_seconds
