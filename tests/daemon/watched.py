"""The watched folder of a daemon, told what it has seen."""

from __future__ import annotations

from fusemld.daemon.admitting import Admitting
from fusemld.daemon.folder import Folder
from fusemld.hooks.manager import Plugins
from fusemld.intake.catalog import Catalog
from fusemld.intake.snapshot import Scan
from fusemld.registry.registry import Registry
from tests.daemon.running import Engine
from tests.intake.conftest import report

NO_PLUGINS = Plugins(
    names=(), runtimes={}, pod_runtimes={}, steps={}, resolvers={}, service_kinds={}, object_stores={}
)


def folder_of(engine: Engine, catalog: Catalog, registry: Registry) -> Folder:
    return Folder(
        catalog=catalog,
        registry=registry,
        store=engine.store,
        supervisor=engine.supervisor,
        admitting=Admitting(NO_PLUGINS, ["process"], "process"),
        plans=engine.plans,
        default_executor="process",
        clock=engine.clock,
    )


def scan_of(*removed: str, **files: str) -> Scan:
    """News: `name="text"` stands for the file `name.yaml`."""
    reports = tuple(report(f"{name}.yaml", text) for name, text in files.items())
    return Scan(files=reports, removed=tuple(f"{name}.yaml" for name in removed))
