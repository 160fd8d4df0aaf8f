"""Serving a model on a cluster: an InferenceService with its own access to the object store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

import anyio
import msgspec

from fusemld.hooks.clusters import Cluster, Json
from fusemld.hooks.steps import StepContext
from fusemld.hooks.stores import ObjectStore, StoreConnection
from fusemld.model.application import Application
from fusemld.model.errors import ConflictError, FusemldError, NotFoundError, StartError, UnavailableError
from fusemld.model.extension import ServiceAccess
from fusemld_kserve import layouts, manifests, updates
from fusemld_kserve.doubt import Doubting
from fusemld_kserve.engines import Layout, choose_engine, lay_out
from fusemld_kserve.manifests import Owner, Place
from fusemld_kserve.models import DESCRIPTION, ModelDescription
from fusemld_kserve.objects import OwnObjects
from fusemld_kserve.options import Options
from fusemld_kserve.sources import DESCRIPTION_LIMIT_BYTES, TYPE, current, model_objects, read_model, store_access
from fusemld_kserve.waiting import Wait, require_sight

_RESTORE_S = 20.0
_APPLY_TRIES = 5
_REQUIREMENTS = "requirements.txt"


async def deploy(context: StepContext, options: Options, access: ServiceAccess, lock: anyio.Lock) -> str:
    """The prediction URL of the application, once this run's model answers there.

    `lock` keeps the steps of one application from changing it at the same time; nobody holds it while it waits,
    so a newer run takes over from an older one that waits. If the update fails for good, what served before is
    put back.
    """
    async with context.clusters.open(access) as cluster:
        deployment = _Deployment(context, options, access, Doubting(cluster, context.note), lock)
        try:
            return await deployment.run()
        except UnavailableError:
            raise
        except FusemldError:
            await deployment.undo()
            raise
        except anyio.get_cancelled_exc_class():
            if context.is_killed:
                with anyio.move_on_after(_RESTORE_S, shield=True):
                    await deployment.undo()
            raise


class _Deployment:
    def __init__(
        self, context: StepContext, options: Options, access: ServiceAccess, cluster: Cluster, lock: anyio.Lock
    ) -> None:
        self._context = context
        self._options = options
        self._access = access
        self._cluster = cluster
        self._lock = lock
        self._run = context.key.run
        name = manifests.service_name(options.application, cluster.namespace)
        self._place = manifests.service_place(name, cluster.namespace)
        self._secret, self._account = manifests.access_places(name, cluster.namespace, self._run)
        self._owner = Owner(
            instance=cluster.instance,
            application=options.application,
            workflow=context.workflow,
            run=self._run,
            run_created_at=context.run_created_at,
        )
        self._objects = OwnObjects(cluster, self._owner)
        self._file = updates.UpdateFile(context.work, options.application)
        self._store_access = store_access(context)
        self._below = layouts.prefix(options.model, cluster.instance, options.application)

    async def run(self) -> str:
        context, options = self._context, self._options
        connection = self._served_store()
        async with self._lock:
            recorded = await self._recorded()
            service = await self._objects.service(self._place)
            if service is not None and _run(service) != self._run:
                await require_sight(self._cluster, service)
            update = updates.begin(
                self._file.read(),
                run=self._run,
                server=self._cluster.name,
                place=self._place,
                service=service,
                recorded=recorded,
            )
            self._store_access = await context.as_daemon(store_access(context))
            store = self._store()
            layout, address = await self._laid_out(store)
            context.note(f"applying {self._place.reference} ({layout.engine})")
            if update is not None:
                self._file.write(update)
            await self._apply_access(connection)
            before = await self._apply_service(layout, address)
        url = await Wait(self._cluster, self._place, self._run, before, context.note).url()
        url += layout.inference_path
        async with self._lock:
            await self._require_own()
            await context.applications.record(self._application(url, layout, await self._recorded()))
            await self._tidy(store, address)
        context.note(f"{options.application} is ready: {url}")
        return url

    async def undo(self) -> None:
        """Put back what served before this run, as far as the run has changed it; what cannot be put back now is
        remembered for the next update."""
        async with self._lock:
            try:
                await self._restore()
            except FusemldError as error:
                self._context.log(f"warning: cannot put back what {self._options.application} was before: {error}")

    # What is there

    async def _recorded(self) -> Application | None:
        """Raises `ConflictError` where a newer run updated it, or where it is served somewhere else."""
        found = await current(self._context, self._options.application)
        if found is None or (found.cluster is not None and found.cluster.url == self._access.service.url):
            return found
        where = f"in the cluster {found.cluster.url}" if found.cluster is not None else "on this machine"
        raise ConflictError(
            f"cannot serve {found.name} in the cluster {self._cluster.name}: it is served {where}; "
            f"delete the application there first (fuseml application delete {found.name}), or set another app_name"
        )

    async def _require_own(self) -> None:
        """A newer run may have taken over after this one's model was ready."""
        found = await self._objects.service(self._place)
        if found is None or _run(found) != self._run:
            raise ConflictError(
                f"cannot record application {self._options.application}: its {self._place.kind} is not "
                "of this run any more"
            )

    async def _found(self) -> Json | None:
        try:
            return await self._cluster.get(self._place.path)
        except NotFoundError:
            return None

    # What is made

    def _store(self) -> ObjectStore:
        """As the daemon reaches it."""
        return self._context.object_store(self._store_access)

    async def _laid_out(self, store: ObjectStore) -> tuple[Layout, str]:
        """How the model is served, and the address of what is."""
        model = self._options.model
        files = layouts.relative(model, await model_objects(store, model))
        description: ModelDescription | None = None
        if DESCRIPTION in files:
            description = await read_model(store, model)
        requirements = ""
        if _REQUIREMENTS in files and files[_REQUIREMENTS].size <= DESCRIPTION_LIMIT_BYTES:
            text = await store.read(f"{model}/{_REQUIREMENTS}", DESCRIPTION_LIMIT_BYTES)
            requirements = text.decode(errors="replace")
        layout = lay_out(
            choose_engine(self._options.predictor, description, model),
            description,
            files,
            name=self._place.name,
            where=model,
            runtime_version=self._options.runtime_version,
            requirements=requirements,
        )
        if self._options.verbose:
            self._context.log("\n".join(f"{each.key} {each.size} {each.etag}" for each in files.values()))
        if not layout.copies:
            return layout, model
        self._context.note(f"laying out {model} for {layout.engine} ({len(layout.copies)} files)")
        return layout, await layouts.made(store, layout, model, files, self._below)

    def _served_store(self) -> StoreConnection:
        """The object store as the served model sees it."""
        connection = self._context.object_store(store_access(self._context)).connection
        if manifests.is_loopback(connection):
            raise StartError(
                f"cannot serve {self._options.model} in the cluster {self._cluster.name}: its object store is at "
                f"{connection.endpoint}, which pods cannot reach; register one that they can reach"
            )
        if connection.session_token is not None:
            self._context.log(
                "warning: KServe hands no session token on, so the model may not be allowed to be read"
            )
        return connection

    async def _apply_access(self, connection: StoreConnection) -> None:
        wanted = (
            (self._secret, manifests.secret(self._secret, self._owner, connection)),
            (self._account, manifests.service_account(self._account, self._owner, self._secret.name)),
        )
        for place, manifest in wanted:
            await self._objects.apply(place, manifest)

    async def _apply_service(self, layout: Layout, address: str) -> Json | None:
        """The service as it was just before."""
        manifest = manifests.inference_service(
            self._place,
            self._owner,
            layout,
            storage=address,
            account=self._account.name,
            resources=self._options.resources,
        )
        if self._options.verbose:
            self._context.log(msgspec.json.format(msgspec.json.encode(manifest)).decode())
        for _ in range(_APPLY_TRIES):
            before = await self._objects.service(self._place)
            try:
                await self._cluster.apply(self._place.path, _at_version(manifest, before))
            except ConflictError:
                continue  # it was changed meanwhile, which is looked at before it is written over
            return before
        raise UnavailableError(f"cannot update {self._place.reference}: it is changed all the time")

    # What is left

    def _application(self, url: str, layout: Layout, before: Application | None) -> Application:
        context, options = self._context, self._options
        repeated = before is not None and before.run == self._run
        return Application(
            name=options.application,
            type=TYPE,
            url=url,
            description=f"{layout.engine} model {options.model}",
            project=context.project,
            workflow=context.workflow,
            run=self._run,
            run_created_at=context.run_created_at,
            revision=1 if before is None else before.revision + (0 if repeated else 1),
            objects=tuple(each.reference for each in (self._place, self._account, self._secret)),
            cluster=self._access.service,
            server=self._cluster.name,
            copies=(f"{self._below}/",),
            store=self._store_access.service,
            updated_at=time.time(),
        )

    async def _tidy(self, store: ObjectStore, address: str) -> None:
        """Remove what served before; what cannot be removed now goes with the next update."""
        update = self._file.read()
        try:
            if update is not None:
                for place in map(_access_place, update.leftovers):
                    await self._objects.delete(place)
                await self._delete_access(update.failed)
            await layouts.delete_others(store, self._below, address)
        except FusemldError as error:
            self._context.log(f"warning: cannot remove what served before: {error}")
        else:
            self._file.remove()

    async def _restore(self) -> None:
        update = self._file.read()
        if update is None:
            return
        if update.run != self._run:  # a newer run goes on from here
            await self._delete_access((self._run,))
            return
        runs = (*update.failed, self._run)
        found = await self._found()
        if found is not None and self._objects.is_ours(found) and _run(found) in runs:
            await self._put_back(found, update.previous)
        await self._delete_access(runs)
        kept = _layout_of(_storage(update.previous), self._below)
        await layouts.delete_others(self._store(), self._below, kept)
        self._file.remove()

    async def _delete_access(self, runs: Iterable[str]) -> None:
        for place in self._access_of(runs):
            await self._objects.delete(place)

    def _access_of(self, runs: Iterable[str]) -> Iterator[Place]:
        for run in runs:
            secret, account = manifests.access_places(self._place.name, self._place.namespace, run)
            yield account
            yield secret

    async def _put_back(self, found: Json, previous: Json | None) -> None:
        if previous is None:
            self._context.log(f"removing {self._place.reference}: nothing served before it")
            await self._cluster.delete(self._place.path, uid=found["metadata"]["uid"])
            return
        self._context.log(
            f"putting back {self._place.reference} as run {manifests.annotation(previous, manifests.RUN)} left it"
        )
        await self._cluster.apply(self._place.path, _at_version(previous, found))


def _at_version(manifest: Json, found: Json | None) -> Json:
    """To be applied only to the object as it was found."""
    if found is None:
        return manifest
    version = found["metadata"]["resourceVersion"]
    return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": version}}


def _access_place(reference: str) -> Place:
    api_version, kind, namespace, name = reference.rsplit("/", 3)
    resources: Mapping[str, str] = {"Secret": "secrets", "ServiceAccount": "serviceaccounts"}
    if kind not in resources:
        raise StartError(f"cannot delete {reference}: it is no access to an object store")
    return Place(api_version=api_version, kind=kind, resource=resources[kind], namespace=namespace, name=name)


def _run(service: Json) -> str:
    return manifests.annotation(service, manifests.RUN)


def _storage(service: Json | None) -> str:
    if service is None:
        return ""
    model = service["spec"].get("predictor", {}).get("model") or {}
    return str(model.get("storageUri", ""))


def _layout_of(storage: str, below: str) -> str:
    """The layout that an address lies in, empty where it lies in none of them."""
    name = storage.removeprefix(f"{below}/").partition("/")[0] if storage.startswith(f"{below}/") else ""
    return f"{below}/{name}" if name else ""
