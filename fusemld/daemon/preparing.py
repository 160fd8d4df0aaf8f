"""Everything about an attempt before the point of no return: services, values, codesets, and who will run it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec

from fusemld.daemon.mask import Mask
from fusemld.daemon.pinning import Origin, Pinner
from fusemld.daemon.steering import Context
from fusemld.daemon.step_inputs import check_inputs
from fusemld.daemon.step_log import StepLog
from fusemld.daemon.variables import lookup, public, selectors, step_variables
from fusemld.engine.plan import Plan
from fusemld.hooks.clusters import Clusters
from fusemld.hooks.environments import Environments, Note
from fusemld.hooks.executors import PROCESS, Executor, Launch, MountedCodeset
from fusemld.hooks.manager import Plugins, repository
from fusemld.hooks.services import Services
from fusemld.hooks.steps import Applications, PluginStep, RuntimeFolders
from fusemld.model.codeset import PinnedCodeset
from fusemld.model.errors import StartError
from fusemld.model.extension import ResolvedService, Selectors, ServiceAccess
from fusemld.model.run import AttemptKey, Run
from fusemld.model.template import NAME_LENGTH, limited
from fusemld.model.workflow import Step
from fusemld.registry.registry import Registry


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What preparing an attempt needs of the rest of the daemon."""

    plugins: Plugins
    executors: Mapping[str, Executor]
    registry: Registry
    pinner: Pinner
    services: Services
    clusters: Clusters
    zone: str
    """Where the daemon itself is."""
    environments: Environments
    applications: Applications
    folders: RuntimeFolders
    state: Path
    grace_s: float
    extensions_read: Callable[[Note], Awaitable[None]]
    """Returns once the registry holds every record that is known to exist."""
    keep_outputs: Callable[[str, Mapping[str, str]], Awaitable[str]]
    """See `Store.keep_outputs`."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine is told when the attempt starts or ends."""

    services: tuple[ResolvedService, ...] = ()
    warnings: tuple[str, ...] = ()


class Steered(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that runs inside the daemon."""

    step: PluginStep
    context: Context


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """In memory only: it holds secrets. A `Launch` is for `executor`."""

    facts: Facts
    work: Launch | Steered
    executor: Executor


class Preparer:
    """Safe to repeat, and to cancel. Every method raises `StartError`, `InvalidInputError` and `NotFoundError` for
    what cannot be started as it is described, `UnavailableError` for what may work later."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def prepare(
        self, run: Run, plan: Plan, key: AttemptKey, *, note: Note, mask: Mask, recovered: bool
    ) -> Prepared:
        """Start the services that the step needs, and put together what it will see. `mask` learns the step's
        secrets as soon as they are known; `note` is expected to use it."""
        step = plan.step(key.step)
        executor = self._executor(run, step)
        access = await self._resolved(run, step, executor, note)
        mask.add(one.configuration[name] for one in access.values() for name in one.secret_keys)
        value = lookup(run, access)
        image = public(step.image, limited(value, NAME_LENGTH), "image")
        variables = step_variables(run, step, access, value)
        mask.add(variables.secrets)
        plugins, claimed = self._parts.plugins, repository(image)
        plugin_step = plugins.steps.get(claimed)
        owner = plugin_step or plugins.runtime(claimed, executor.name)
        ignored = [] if owner is None else check_inputs(step, owner.inputs)
        runtime = None if executor.name == PROCESS else plugins.pod_runtimes.get(claimed)
        facts = Facts(
            services=tuple(one.service for one in access.values()), warnings=(*variables.warnings, *ignored)
        )
        inputs = {name: rendered.text for name, rendered in variables.inputs.items()}
        mounts = {entry.name: entry.codeset for entry in step.inputs if entry.codeset is not None}
        for mount in mounts.values():
            public(mount.name, value, "codeset name")
        pins = {name: self._pinned(run, step, inputs[name]) for name in mounts}
        if plugin_step is not None:
            context = self._context(run, step, key, executor.name, access, inputs, pins, note, mask)
            return Prepared(facts=facts, work=Steered(step=plugin_step, context=context), executor=executor)
        mounted = [
            await self._mounted(run, executor, mounts[name].path, pinned, note, mask)
            for name, pinned in pins.items()
        ]
        launch = Launch(
            key=key,
            workflow=run.workflow,
            image=image if runtime is None else runtime.image(image),
            command=None if step.command is None else tuple(public(t, value, "command") for t in step.command),
            args=None if step.args is None else tuple(public(t, value, "args") for t in step.args),
            env=variables.env,
            secret_env=variables.secret_env,
            secrets=variables.secrets,
            codesets=tuple(mounted),
            outputs=tuple(output.name for output in step.outputs),
            requests={name: public(t, value, "resources") for name, t in step.resources.requests.items()},
            limits={name: public(t, value, "resources") for name, t in step.resources.limits.items()},
            timeout_s=plan.timeout_s(step.name),
            small_output=runtime is not None and runtime.small_output and len(step.outputs) == 1,
            recovered=recovered,
        )
        return Prepared(facts=facts, work=launch, executor=executor)

    def _executor(self, run: Run, step: Step) -> Executor:
        executor = self._parts.executors.get(run.executor)
        if executor is None:
            raise StartError(
                f"cannot run step {step.name}: this daemon has no executor {run.executor!r} "
                f"(it has: {', '.join(sorted(self._parts.executors))})"
            )
        return executor

    async def _resolved(self, run: Run, step: Step, executor: Executor, note: Note) -> dict[str, ServiceAccess]:
        access: dict[str, ServiceAccess] = {}
        if step.extensions:
            await self._parts.extensions_read(note)
        for requirement in step.extensions:
            access[requirement.name] = await self._parts.registry.resolve(
                selectors(requirement, run),
                executor=executor.name,
                zone=executor.zone,
                project=run.project,
                user=run.user,
                services=self._parts.services,
                note=note,
            )
        return access

    async def _as_daemon(self, run: Run, executor: str, note: Note, access: ServiceAccess) -> ServiceAccess:
        service = access.service
        return await self._parts.registry.resolve(
            Selectors(
                name=service.requirement, extension_id=service.extension_id, service_id=service.service_id or None
            ),
            executor=executor,
            zone=self._parts.zone,
            project=run.project,
            user=run.user,
            services=self._parts.services,
            note=note,
        )

    async def _mounted(
        self, run: Run, executor: Executor, path: str, pinned: PinnedCodeset, note: Note, mask: Mask
    ) -> MountedCodeset:
        origin = Origin(url="")
        if executor.name != PROCESS:
            origin = await self._parts.pinner.origin(pinned, project=run.project, user=run.user, note=note)
            mask.add(origin.secrets)
        return MountedCodeset(
            path=path,
            project=pinned.project,
            name=pinned.name,
            version=pinned.version,
            digest=pinned.digest,
            source=await self._parts.pinner.source(pinned),
            size_bytes=pinned.size_bytes,
            url=origin.url,
            credentials=origin.credentials,
            secrets=origin.secrets,
        )

    @staticmethod
    def _pinned(run: Run, step: Step, reference: str) -> PinnedCodeset:
        """What the run pinned before its first step: the language allows no reference that was not known then."""
        pins = run.codesets or {}
        if reference not in pins:
            raise StartError(f"cannot mount codeset {reference!r} in step {step.name}: the run has not pinned it")
        return pins[reference]

    def _context(
        self,
        run: Run,
        step: Step,
        key: AttemptKey,
        executor: str,
        access: Mapping[str, ServiceAccess],
        inputs: Mapping[str, str],
        pins: Mapping[str, PinnedCodeset],
        note: Note,
        mask: Mask,
    ) -> Context:
        work = self._parts.state / "plugins"
        work.mkdir(mode=0o700, exist_ok=True)
        return Context(
            key=key,
            workflow=run.workflow,
            project=run.project,
            executor=executor,
            run_created_at=run.created_at,
            inputs=inputs,
            codesets=pins,
            extensions=access,
            outputs=tuple(output.name for output in step.outputs),
            services=self._parts.services,
            clusters=self._parts.clusters,
            as_daemon=partial(self._as_daemon, run, executor, note),
            environments=self._parts.environments,
            applications=self._parts.applications,
            folders=self._parts.folders,
            work=work,
            note=note,
            step_log=StepLog(log_path(self._parts.state, key), mask),
            object_stores=self._parts.plugins.object_stores,
        )


def log_path(state: Path, key: AttemptKey) -> Path:
    """Where the log of the attempt is, whoever runs it."""
    return state / "logs" / key.run / f"{key.step}.{key.attempt}.log"
