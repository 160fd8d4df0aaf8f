"""Starts the parts in order, stops them in the other, and says why when one cannot start."""

from __future__ import annotations

import os
import signal
import sys
import threading

import anyio
import structlog
from anyio.abc import TaskStatus

from fusemld import __version__
from fusemld.api import server
from fusemld.codesets.codesets import Codesets
from fusemld.codesets.polling import Poller
from fusemld.daemon import journal
from fusemld.daemon.admitting import Admitting
from fusemld.daemon.applications import ApplicationBook
from fusemld.daemon.backups import Backups
from fusemld.daemon.clock import WallClock
from fusemld.daemon.cluster_access import configured, connection
from fusemld.daemon.event_loop import EventLoop
from fusemld.daemon.folder import Folder
from fusemld.daemon.garbage import nothing_is_garbage, search_seldom
from fusemld.daemon.legible import known_documents, remembered_files
from fusemld.daemon.locking import state_lock
from fusemld.daemon.operations import DaemonOperations
from fusemld.daemon.ownership import as_owner, refuse_another
from fusemld.daemon.performing import StepPerformer
from fusemld.daemon.pinning import Pinner
from fusemld.daemon.plans import Plans
from fusemld.daemon.preparing import Parts
from fusemld.daemon.reading import DocumentReader
from fusemld.daemon.removal import Removal
from fusemld.daemon.retention import Retention
from fusemld.daemon.settings import Settings
from fusemld.daemon.stored_services import StoredServices
from fusemld.daemon.supervisor import Supervisor
from fusemld.daemon.systemd import notify
from fusemld.daemon.watchdog import Patience, Watchdog
from fusemld.engine.admission import Admission
from fusemld.engine.plan import Defaults
from fusemld.executors.kubernetes.executor import KubernetesExecutor
from fusemld.executors.process.client import Keeper
from fusemld.executors.process.executor import ProcessExecutor
from fusemld.executors.process.settings import ProcessExecutorSettings
from fusemld.executors.process.spawning import boot_id
from fusemld.hooks.executors import Executor
from fusemld.hooks.manager import load_plugins
from fusemld.hooks.steps import RuntimeFolders
from fusemld.intake.catalog import Catalog
from fusemld.intake.watcher import Timing, Watcher
from fusemld.kube.client import KubeCluster
from fusemld.kube.clusters import KubeClusters
from fusemld.model.document import Kind
from fusemld.model.errors import FusemldError, StartError, leaves
from fusemld.registry.credentials import AllowedSources
from fusemld.registry.registry import Registry
from fusemld.services.environments import KeeperEnvironments
from fusemld.services.supervisor import ServiceSupervisor
from fusemld.store.keys import CLOCK, INBOX, INSTANCE
from fusemld.store.reads import APPLICATIONS
from fusemld.store.sqlite import Store

log = structlog.get_logger(__name__)

STOP_S = 8.0
"""How long stopping may take before it is forced: the promise is ten seconds."""
SWITCH_S = 0.0005
"""How long a thread that computes (a large file is read) may go on while the event loop has something to do."""


def serve(settings: Settings) -> int:
    """Be the daemon until SIGTERM or SIGINT; the exit status. Everything that runs goes on without it."""
    journal.configure(settings.log)
    os.umask(0o077)
    sys.setswitchinterval(SWITCH_S)
    search_seldom()
    status = 0
    try:
        refuse_another(settings.state)
        with state_lock(settings.state):
            anyio.run(_Daemon(settings).run, backend_options={"loop_factory": EventLoop})
    except* FusemldError as group:
        for error in leaves(group):
            print(f"fusemld: {error}", file=sys.stderr)  # noqa: T201 the one line that a person reads
        status = 1
    return status


async def stop_everything(settings: Settings) -> bool:
    """End what a daemon that is not running any more has left; False where none has ever used the state folder.
    Raises `StartError` where one is running."""
    if not settings.state.exists():
        return False
    with as_owner(settings.state), state_lock(settings.state):
        return await Keeper(settings.state).shutdown(settings.steps.grace_s)


class _Daemon:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = anyio.Event()
        self._stops_everything = False

    async def run(self) -> None:
        settings = self._settings
        log.info("daemon.starting", version=__version__, state=str(settings.state), folder=str(settings.folder))
        try:
            settings.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(f"cannot make the watched folder {settings.folder}: {error.strerror}") from error
        keeper = Keeper(settings.state)
        async with anyio.create_task_group() as outer:
            await outer.start(self._signals)
            await outer.start(keeper.run)
            async with Store.open(settings.state / "fusemld.db") as store:
                instance = await store.meta(INSTANCE)
                assert instance is not None, "every database has one"
                async with configured(settings, instance) as cluster:
                    services = await self._serve(store, keeper, cluster, instance)
            if self._stops_everything:
                log.info("daemon.stopping_everything")
                await services.stop_all(settings.steps.grace_s)
                await keeper.shutdown(settings.steps.grace_s)
            outer.cancel_scope.cancel()
        log.info("daemon.stopped")

    async def _serve(
        self, store: Store, keeper: Keeper, cluster: KubeCluster | None, instance: str
    ) -> ServiceSupervisor:
        settings = self._settings
        plugins = load_plugins()
        folders = RuntimeFolders(environments=settings.state / "python" / "environments", cache=settings.cache)
        for needed in (folders.environments, folders.cache):
            needed.mkdir(mode=0o700, parents=True, exist_ok=True)
        environments = KeeperEnvironments(keeper, folders, settings.state / "logs" / "environments")
        services = ServiceSupervisor(
            keeper, environments, plugins.service_kinds, settings.state, StoredServices(store)
        )
        processes = ProcessExecutor(
            keeper,
            plugins.runtimes,
            folders,
            ProcessExecutorSettings(
                state=settings.state,
                zone=settings.process.zone,
                sandbox=settings.process.sandbox,
                default_command=settings.process.default_command,
                images=settings.process.images,
                hidden=(settings.socket.parent,),
                pass_env=settings.process.pass_env,
                log_limit_bytes=settings.log.step_limit_bytes,
                process_limit=settings.process.step_processes,
            ),
        )
        executors: dict[str, Executor] = {processes.name: processes}
        if cluster is not None:
            pods = KubernetesExecutor(
                cluster, settings.kubernetes, state=settings.state, log_limit_bytes=settings.log.step_limit_bytes
            )
            executors[pods.name] = pods
        with nothing_is_garbage():
            remembered, documents = await remembered_files(store), await known_documents(store)
            identity = await store.meta(INBOX) or ""
            catalog = Catalog(
                documents.readable,
                unreadable={key: str(error) for key, error in documents.unreadable.items()},
                restoration=await store.restoration(),
            )
            await store.entries(APPLICATIONS)  # for the health report: what cannot be read is told from the start
        clusters = KubeClusters(cluster, instance=instance, connection=connection(settings.kubernetes))
        registry = Registry(
            plugins.resolvers.values(),
            AllowedSources(
                variables=frozenset(settings.secrets.env),
                folders=settings.secrets.files,
                secrets=settings.secrets.secrets,
            ),
            clusters,
        )
        codesets = Codesets(
            settings.state, (settings.folder, *settings.codesets.roots), limit_bytes=settings.codesets.limit_bytes
        )
        defaults = Defaults(
            timeout_s=settings.steps.timeout_s,
            queue_timeout_s=settings.steps.queue_timeout_s,
            pin_timeout_s=settings.steps.pin_timeout_s,
        )
        plans = Plans(store, defaults)
        limits = settings.limits
        clock = WallClock(boot_id(), await store.meta(CLOCK))
        supervisor = Supervisor(
            store=store,
            planner=plans,
            admission=Admission(limits.steps or None, limits.steps_per_workflow or None),
            clock=clock,
        )
        applications = ApplicationBook(store, Removal(services, clusters, registry, plugins.object_stores))
        folder = Folder(
            catalog=catalog,
            registry=registry,
            store=store,
            supervisor=supervisor,
            admitting=Admitting(plugins, executors, settings.executor),
            plans=plans,
            default_executor=settings.executor,
            remembered=remembered,
            identity=identity,
        )
        pinner = Pinner(
            codesets,
            registry,
            services,
            lambda: catalog.registered(Kind.CODESET),
            folder.extensions_read,
            zone=settings.process.zone,
            timeout_s=settings.steps.pin_timeout_s,
        )
        performer = StepPerformer(
            Parts(
                plugins=plugins,
                executors=executors,
                registry=registry,
                pinner=pinner,
                services=services,
                clusters=clusters,
                zone=settings.process.zone,
                environments=environments,
                applications=applications,
                folders=folders,
                state=settings.state,
                grace_s=settings.steps.grace_s,
                extensions_read=folder.extensions_read,
                keep_outputs=store.keep_outputs,
            ),
            supervisor,
        )
        retention = Retention(
            settings=settings.retention,
            state=settings.state,
            store=store,
            supervisor=supervisor,
            folder=folder,
            codesets=codesets,
            folders=folders,
            kinds=plugins.service_kinds,
        )
        watcher = Watcher(
            settings.folder,
            DocumentReader(settings.folder, codesets.refusal),
            known=catalog.files,
            remembered=remembered,
            identity=identity,
            timing=Timing(rescan_s=settings.intake.rescan_s),
        )
        watchdog = Watchdog(
            supervisor,
            performer,
            store,
            (
                ("intake", watcher.progress),
                ("intake", folder.progress),
                ("retention", retention.rounds),
                ("retention", retention.passing),
            ),
            patience=Patience(
                look_s=settings.watchdog.look_s,
                lasts_s=settings.watchdog.lasts_s,
                lag_s=settings.watchdog.lag_s,
                stops_s=settings.steps.grace_s + settings.watchdog.stops_s,
                stands_s=settings.watchdog.stands_s,
            ),
        )
        operations = DaemonOperations(
            settings=settings,
            plugins=plugins,
            store=store,
            supervisor=supervisor,
            performer=performer,
            plans=plans,
            folder=folder,
            registry=registry,
            applications=applications,
            services=services,
            executors=executors,
            retention=retention,
            backups=Backups(store, settings.state / "backups"),
            watchdog=watchdog,
            stop=self._stop,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cancel_when_stopping, tasks.cancel_scope, name="stopping")
            with nothing_is_garbage():
                await supervisor.load(await store.unfinished_runs())
                await tasks.start(services.run, name="services")
                await tasks.start(performer.run, name="performer")
                await tasks.start(supervisor.run, performer, name="supervisor")
                tasks.start_soon(watchdog.run, name="watchdog")
                await tasks.start(server.serve, operations, settings.socket, settings.group, name="api")
                await tasks.start(watcher.run, folder.on_scan, name="watcher")
                poller = Poller(settings.codesets.poll_s, catalog.polled, pinner.version, folder.codeset_seen)
                tasks.start_soon(poller.run, name="poller")
                tasks.start_soon(retention.run, name="retention")
            log.info("daemon.ready", socket=str(settings.socket), runs=len(supervisor.active))
            notify("READY=1")
        # Cancelled, the group ends without an error, even where it was not complete yet.
        return services

    async def _cancel_when_stopping(self, parts: anyio.CancelScope) -> None:
        """Also while the parts are still starting."""
        await self._stopping.wait()
        notify("STOPPING=1")
        parts.cancel()

    def _stop(self, everything: bool) -> None:
        self._stops_everything = self._stops_everything or everything
        self._stopping.set()
        if not everything:
            _force_end_after(STOP_S)

    async def _signals(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            task_status.started()
            async for number in received:
                log.info("daemon.signalled", signal=signal.Signals(number).name)
                self._stop(everything=False)


def _force_end_after(delay_s: float) -> None:
    """End this process if it is still there: a thread that hangs (in a dead network share) cannot be cancelled,
    and every moment is one at which the daemon may be killed."""

    def give_up() -> None:
        log.warning("daemon.forced_to_stop", after_s=delay_s)
        os._exit(0)

    timer = threading.Timer(delay_s, give_up)
    timer.daemon = True
    timer.start()
