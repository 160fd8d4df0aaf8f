"""A kind of service that serves a text as if it were a model, in a plugin of its own."""

from __future__ import annotations

from pathlib import Path

SERVER = Path(__file__).parents[1] / "services" / "server.py"

TEXTS_PLUGIN = f'''\
"""The kind of service `text`."""

import sys

from fusemld.hooks.services import HttpProbe, ServicePlan
from fusemld.hooks.specs import hookimpl


class Text:
    kind = "text"
    description = "serves a text"
    requires = ()
    credentials = ()

    def environment(self, parameters):
        return None

    def plan(self, context):
        ports = ("--port", str(context.address.port), "--private-port", str(context.private_port))
        return ServicePlan(
            argv=(sys.executable, {str(SERVER)!r}, "--text", context.parameters["text"], *ports, "--inherit"),
            probe=HttpProbe(path="/", private=True),
            inherit_socket=True,
        )


@hookimpl
def fusemld_service_kinds():
    return [Text()]
'''
