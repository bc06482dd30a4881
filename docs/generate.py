"""Writes the generated pages of docs/, or checks that they are fresh (`--check`).

docs/settings.md follows from the settings classes, the only place where settings are declared.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from pydantic_core import PydanticUndefined

from mesh.settings import ServiceSettings

DOCS = Path(__file__).resolve().parent
SERVICES = ("gateway", "transformer", "predictor", "explainer", "registry")
HEAD = """# Settings

Generated from the settings classes by `make docs`; do not edit.

A setting `grpc_port` of the gateway is the flag `--grpc-port`, the variable `MESHSERVE_GATEWAY_GRPC_PORT` (else
`MESHSERVE_GRPC_PORT`), or the key `grpc_port` of the YAML file named by `--config`; the first that is set wins.
"""


def settings_page() -> str:
    """docs/settings.md as text."""
    common = set(ServiceSettings.model_fields)
    parts = [HEAD, "## Every service\n", _table(ServiceSettings, list(ServiceSettings.model_fields))]
    for service in SERVICES:
        settings_class = _settings_class(service)
        own = [name for name in settings_class.model_fields if name not in common or _differs(settings_class, name)]
        parts += [f"## {service}\n", _table(settings_class, own)]
    return "\n".join(parts)


def _settings_class(service: str) -> type[ServiceSettings]:
    module = import_module(f"{service}.settings")
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, ServiceSettings) and value.__module__ == module.__name__
    ]
    return classes[-1]


def _differs(settings_class: type[ServiceSettings], name: str) -> bool:
    return settings_class.model_fields[name].default != ServiceSettings.model_fields[name].default


def _table(settings_class: type[ServiceSettings], names: list[str]) -> str:
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for name in names:
        field = settings_class.model_fields[name]
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else f"`{default}`"
        rows.append(f"| `{name}` | {'' if default in (None, '') else shown} | {field.description} |")
    return "\n".join(rows) + "\n"


PAGES = {"settings.md": settings_page}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is stale")
    check = parser.parse_args().check
    stale = False
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            print(f"stale page: docs/{name} (run `make docs`)", file=sys.stderr)
            stale = True
        elif not check:
            path.write_text(text, encoding="utf-8")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
