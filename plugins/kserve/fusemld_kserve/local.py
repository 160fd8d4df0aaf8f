"""Serving a model on this machine, in the environment that it needs."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import anyio
from anyio import to_thread

from fusemld.hooks.services import ServiceAddress
from fusemld.hooks.steps import StepContext
from fusemld.hooks.stores import ObjectStore, StoredObject
from fusemld.model.application import Application
from fusemld.model.errors import ConflictError, StartError, UnavailableError
from fusemld_kserve import inference
from fusemld_kserve.models import DESCRIPTION, check_servable
from fusemld_kserve.options import Options
from fusemld_kserve.sources import TYPE, current, model_objects, read_model, store_access

_VERIFY_S = 30.0


async def deploy(context: StepContext, options: Options) -> str:
    """The prediction URL of the application, once the model answers there."""
    application = options.application
    before = await current(context, application)
    if before is not None and before.objects:
        raise ConflictError(
            f"cannot serve {application} on this machine: it is served in a cluster; delete the application there "
            f"first (fuseml application delete {application}), or set another app_name"
        )
    store = context.object_store(store_access(context))
    objects = await model_objects(store, options.model)
    description = await read_model(store, options.model)
    flavour = check_servable(description, options.predictor, options.model)
    models = context.services.folder(inference.service_name(application)) / "models"
    model = await _download(context, store, options, objects, models)
    context.note(f"serving {application} ({flavour})")
    try:
        address = await context.services.ensure(inference.request(application, model), context.note)
        await _verify(address, application)
        url = address.url + inference.inference_path(application)
        await context.applications.record(_application(context, options, url, flavour, before))
    except BaseException as error:
        # Nobody could delete a service without an application. The next daemon goes on with what ends with this.
        if before is None and (isinstance(error, StartError) or context.is_killed):
            with anyio.CancelScope(shield=True):
                await context.services.remove(inference.service_name(application))
        raise
    await to_thread.run_sync(_delete_others, model)
    context.note(f"{application} is ready: {url}")
    return url


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
