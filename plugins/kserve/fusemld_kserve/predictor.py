"""The `kserve-predictor` step: has a trained model served, and leaves an application behind."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp
import anyio
from anyio import to_thread

from fusemld.hooks.services import ServiceAddress
from fusemld.hooks.steps import StepContext, StepInputs
from fusemld.hooks.stores import ObjectStore, StoredObject
from fusemld.model.application import Application
from fusemld.model.errors import ConflictError, InvalidInputError, NotFoundError, StartError, UnavailableError
from fusemld_kserve import inference
from fusemld_kserve.models import DESCRIPTION, ModelDescription, check_servable, read_description
from fusemld_kserve.options import Options, read_options
from fusemld_kserve.resolver import RESOURCES, cluster_refusal, is_local

OUTPUT = "prediction-url"
TYPE = "predictor"
_DESCRIPTION_LIMIT_BYTES = 1024 * 1024
_VERIFY_S = 30.0


class KServePredictor:
    """Steps of one application follow one another, and every one begins by asking whether a newer run was here;
    whatever an interrupted one left is found again by its content."""

    repositories: tuple[str, ...] = ("ghcr.io/fuseml/kserve-predictor", "ghcr.io/fuseml/kfserving-predictor")
    inputs = StepInputs(
        required=frozenset({"model"}),
        optional=frozenset({"predictor", "app_name", "verbose"}),
        ignored={
            "runtime_version": "a local server runs in the environment that the model needs",
            "resources": "local servers have no resource requests",
            "resources_limits": "local servers are not limited",
        },
    )

    def __init__(self) -> None:
        self._locks: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    async def run(self, context: StepContext) -> Mapping[str, str]:
        options = read_options(
            context.inputs, project=context.project, workflow=context.workflow, codesets=context.codesets
        )
        for warning in options.warnings:
            context.log(f"warning: {warning}")
        _refuse_clusters(context)
        async with self._locks[options.application]:
            url = await _deploy(context, options)
        output = OUTPUT if OUTPUT in context.outputs or not context.outputs else context.outputs[0]
        return {output: url}


async def _deploy(context: StepContext, options: Options) -> str:
    application = options.application
    before = await _current(context, application)
    store = _object_store(context)
    objects = await _objects(store, options.model)
    description = await _description(store, options.model)
    flavour = check_servable(description, options.predictor, options.model)
    models = context.services.folder(inference.service_name(application)) / "models"
    model = await _download(context, store, options, objects, models)
    context.note(f"serving {application} ({flavour})")
    try:
        address = await context.services.ensure(inference.request(application, model), context.note)
        await _verify(address, application)
    except StartError:
        if before is None:
            await context.services.remove(inference.service_name(application))
        raise
    url = address.url + inference.inference_path(application)
    await context.applications.record(_application(context, options, url, flavour, before))
    await to_thread.run_sync(_delete_others, model)
    context.note(f"{application} is ready: {url}")
    return url


def _refuse_clusters(context: StepContext) -> None:
    for access in context.extensions.values():
        if access.service.service_resource in RESOURCES and not is_local(access.service.url):
            raise StartError(f"cannot serve the model: {cluster_refusal(access.service.url)}")


async def _current(context: StepContext, name: str) -> Application | None:
    """The application as it is. Raises `ConflictError` where a newer run updated it."""
    current = await context.applications.get(name)
    if current is not None and current.run_created_at > context.run_created_at:
        raise ConflictError(
            f"cannot update application {name}: the newer run {current.run} has updated it, and its model stays"
        )
    return current


def _object_store(context: StepContext) -> ObjectStore:
    for access in context.extensions.values():
        if access.service.service_resource == "s3":
            return context.object_store(access)
    raise InvalidInputError(
        "cannot read the model: the step has no extension with `service_resource: s3`; add one to its `extensions`"
    )


async def _objects(store: ObjectStore, url: str) -> Sequence[StoredObject]:
    objects = await store.list(f"{url}/")
    if not objects:
        raise NotFoundError(f"cannot serve {url}: there is no such model in the object store")
    return objects


async def _description(store: ObjectStore, url: str) -> ModelDescription:
    where = f"{url}/{DESCRIPTION}"
    try:
        text = await store.read(where, _DESCRIPTION_LIMIT_BYTES)
    except NotFoundError as error:
        raise InvalidInputError(
            f"cannot serve {url}: it has no {DESCRIPTION}, so it is not an MLflow model"
        ) from error
    return read_description(text.decode(errors="replace"), where)


async def _download(
    context: StepContext, store: ObjectStore, options: Options, objects: Sequence[StoredObject], models: Path
) -> Path:
    """The folder of the complete model, named after its content: downloaded unless it is there."""
    listing = "\n".join(f"{entry.key} {entry.size} {entry.etag}" for entry in objects)
    digest = hashlib.sha256(f"{options.model}\n{listing}".encode()).hexdigest()[:16]
    folder, partial = models / digest, models / f".{digest}.partial"
    if folder.is_dir():
        return folder
    size = sum(entry.size for entry in objects)
    context.note(f"downloading the model from {options.model} ({len(objects)} files, {_size(size)})")
    if options.verbose:
        context.log(listing)
    await to_thread.run_sync(lambda: shutil.rmtree(partial, ignore_errors=True))
    partial.mkdir(parents=True)
    await store.download(f"{options.model}/", partial)
    if not (partial / DESCRIPTION).is_file():
        raise UnavailableError(f"cannot download {options.model}: its {DESCRIPTION} did not arrive")
    partial.rename(folder)
    return folder


async def _verify(address: ServiceAddress, application: str) -> None:
    """Ask where clients will ask. Raises `StartError`."""
    url = address.url + inference.ready_path(application)
    last = "no answer"
    timeout = aiohttp.ClientTimeout(total=5.0)
    with anyio.move_on_after(_VERIFY_S):
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                try:
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            return
                        last = f"status {answer.status}"
                except (aiohttp.ClientError, TimeoutError) as error:
                    last = str(error) or type(error).__name__
                await anyio.sleep(0.2)
    raise StartError(f"cannot serve {application}: {url} does not answer ({last})")


def _application(
    context: StepContext, options: Options, url: str, flavour: str, before: Application | None
) -> Application:
    repeated = before is not None and before.run == context.key.run
    return Application(
        name=options.application,
        type=TYPE,
        url=url,
        description=f"{flavour} model {options.model}",
        project=context.project,
        workflow=context.workflow,
        run=context.key.run,
        run_created_at=context.run_created_at,
        revision=1 if before is None else before.revision + (0 if repeated else 1),
        services=(inference.service_name(options.application),),
        updated_at=time.time(),
    )


def _delete_others(model: Path) -> None:
    """Models that were served before, and downloads that were interrupted."""
    for entry in model.parent.iterdir():
        if entry != model:
            shutil.rmtree(entry, ignore_errors=True)


def _size(size_bytes: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes} {unit}"
        size_bytes //= 1024
    return f"{size_bytes} GiB"
