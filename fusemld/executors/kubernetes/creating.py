"""Creates what an attempt needs in the cluster. Everything is safe to repeat."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from fusemld.executors.kubernetes import names
from fusemld.executors.kubernetes.attempts import Attempt
from fusemld.executors.kubernetes.delivery import Delivery
from fusemld.executors.kubernetes.masks import KEY_ANNOTATION, Masks
from fusemld.executors.kubernetes.pod import pod, secret
from fusemld.executors.kubernetes.refusals import NotNowError, RefusedError, creating, in_doubt, is_taken
from fusemld.executors.kubernetes.settings import KubernetesSettings
from fusemld.executors.masking import encoded
from fusemld.hooks.clusters import MANAGED_BY, Json
from fusemld.hooks.executors import Launch
from fusemld.kube.client import KubeCluster
from fusemld.model import faults
from fusemld.model.errors import ConflictError, FusemldError, NotFoundError, StartError, UnavailableError

_SWEPT_WITHIN_S = 5.0
"""A sweep that takes longer waits for the API server, or for its permission: that is told."""


class Creator:
    """`may_create_secrets` is set once those that an earlier daemon left are swept."""

    def __init__(
        self,
        cluster: KubeCluster,
        settings: KubernetesSettings,
        delivery: Delivery,
        masks: Masks,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.may_create_secrets = anyio.Event()
        self._cluster = cluster
        self._instance = cluster.instance
        self._settings = settings
        self._delivery = delivery
        self._masks = masks
        self._clock = clock
        self._root = f"/api/v1/namespaces/{cluster.namespace}"

    async def create(self, attempt: Attempt, launch: Launch) -> Json | None:
        """The pod, which may have been there already; None where it was and is not any more, or where the attempt
        was told to stop meanwhile. Raises `StartError` (there is no pod then) and `UnavailableError`, which a
        refusal is, too, until every try has met one for `REFUSED_S`."""
        try:
            return await self._create(attempt, launch)
        except RefusedError as error:
            if attempt.refusals.are_believed(self._clock()):
                raise
            raise NotNowError(str(error)) from error
        except FusemldError:
            attempt.refusals.end()
            raise

    async def find(self, attempt: Attempt) -> Json | None:
        """The pod of the attempt, if there is one; one of its name that is somebody else's is not."""
        found = await self._named(attempt)
        return found if found is not None and names.is_ours(found, attempt.key, self._instance) else None

    async def _named(self, attempt: Attempt) -> Json | None:
        """Whoever's pod has the name."""
        try:
            with in_doubt():
                return await self._cluster.get(f"{self._root}/pods/{attempt.name}")
        except NotFoundError:
            return None

    async def _create(self, attempt: Attempt, launch: Launch) -> Json | None:
        await self._deliver(attempt, launch)
        instance, namespace = self._instance, self._cluster.namespace
        known = attempt.bundles or {}
        values = masked_values(launch)
        if values and not attempt.mask_key:
            attempt.mask_key = self._masks.keep(attempt.name, values)
        annotations = {KEY_ANNOTATION: attempt.mask_key} if attempt.mask_key else {}
        body = pod(
            launch,
            self._settings,
            instance=instance,
            namespace=namespace,
            known=known,
            more_annotations=annotations,
        )
        credentials = secret(launch, instance=instance, namespace=namespace, known=known)
        if credentials is not None:
            with anyio.move_on_after(_SWEPT_WITHIN_S):
                await self.may_create_secrets.wait()
            if not self.may_create_secrets.is_set():
                raise NotNowError(
                    f"cannot create the credentials of {attempt.key} yet: those that an earlier daemon left are "
                    "still to be removed"
                )
        if attempt.is_stopping:
            return None
        attempt.is_creating = True
        try:
            if credentials is not None and not attempt.is_secret_there:
                await self._create_secret(attempt, credentials)
                faults.point("kubernetes.secret_created")
            return await self._create_pod(attempt, body)
        finally:
            attempt.is_creating = False

    async def _deliver(self, attempt: Attempt, launch: Launch) -> None:
        if attempt.bundles is None:
            bundles = await self._delivery.deliver(launch.codesets) if launch.codesets else {}
            attempt.bundles = bundles
            attempt.held = tuple(name for bundle in bundles.values() for name in bundle.names)
            faults.point("kubernetes.delivered")

    async def _create_secret(self, attempt: Attempt, body: Json) -> None:
        path = f"{self._root}/secrets"
        attempt.has_secret = True
        try:
            with creating(f"the credentials of {attempt.key}"):
                try:
                    await self._cluster.create(path, body)
                except ConflictError as error:
                    if not is_taken(error):
                        raise
                    # No pod uses it yet, and what is in it cannot be known.
                    ours = names.attempt_selector(attempt.key, self._instance)
                    await self._cluster.delete_collection(path, ours)
                    await self._cluster.create(path, body)
        except ConflictError as error:
            attempt.has_secret = False
            raise StartError(
                f"cannot create the credentials of {attempt.key}: there is a Secret {attempt.name} in namespace "
                f"{self._cluster.namespace} that belongs to somebody else, and it is left alone"
            ) from error
        attempt.is_secret_there = True

    async def _create_pod(self, attempt: Attempt, body: Json) -> Json | None:
        try:
            with creating(f"pod {attempt.name}"):
                created = await self._cluster.create(f"{self._root}/pods", body)
        except NotNowError:
            raise
        except UnavailableError:
            attempt.creates_unknown = True
            raise
        except StartError:
            found = await self.find(attempt) if attempt.creates_unknown else None
            if found is None:
                raise
            return found
        except ConflictError:
            return await self._taken(attempt)
        faults.point("kubernetes.pod_created")
        return created

    async def _taken(self, attempt: Attempt) -> Json | None:
        """There is a pod of this name: from an earlier try, or somebody else's."""
        found = await self._named(attempt)
        if found is None:
            if attempt.creates_unknown:
                return None
            raise UnavailableError(f"cannot create pod {attempt.name}: another one of this name has just gone")
        if not names.is_ours(found, attempt.key, self._instance):
            owner = (found["metadata"].get("labels") or {}).get(MANAGED_BY) or "somebody else"
            raise StartError(
                f"cannot create pod {attempt.name}: there is one of this name in namespace "
                f"{self._cluster.namespace} that belongs to {owner}, and it is left alone"
            )
        return found


def masked_values(launch: Launch) -> frozenset[bytes]:
    """What must not be seen in the log of the attempt."""
    texts = launch.secrets.union(*(codeset.secrets for codeset in launch.codesets))
    return frozenset(map(encoded, texts))
