from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fusemld_s3.plugin import fusemld_object_stores
from fusemld_s3.resolver import S3Resolver
from fusemld_s3.service import RcloneKind
from fusemld_s3.store import split_url, target_path

from fusemld.hooks.environments import Note
from fusemld.hooks.services import ServiceAddress, ServiceRequest
from fusemld.hooks.stores import ObjectStore
from fusemld.kube.clusters import KubeClusters
from fusemld.model.errors import ForbiddenError, InvalidInputError, NotFoundError, UnavailableError
from fusemld.model.extension import Extension, ResolvedService, ServiceAccess

NO_CLUSTERS = KubeClusters(None)
KEYS = {"access_key": "test-access-key-0001", "secret_key": "test-secret-key-0001"}


class OneService:
    """The daemon's services, where the only one there is runs already."""

    def __init__(self, address: ServiceAddress) -> None:
        self._address = address

    async def ensure(self, request: ServiceRequest, note: Note) -> ServiceAddress:
        assert request == ServiceRequest(name="s3", kind="s3")
        return self._address

    async def remove(self, name: str) -> None:
        raise AssertionError(name)

    def find(self, name: str) -> ServiceAddress | None:
        return self._address

    def folder(self, name: str) -> Path:
        return self._address.folder


def resolved(record: Extension, **overrides: str) -> ServiceAccess:
    """The record as the registry hands it to a step."""
    service = record.services[0]
    endpoint, credentials = service.endpoints[0], service.credentials[0]
    values = {**endpoint.configuration, **credentials.configuration, **overrides}
    found = ResolvedService(requirement="store", extension_id=record.id, service_id=service.id, url=endpoint.url)
    return ServiceAccess(service=found, configuration={key: str(value) for key, value in values.items()})


@pytest.fixture(scope="session")
def embedded(start_service: Callable[..., ServiceAddress]) -> ServiceAddress:
    """A store whose bucket `models` has one model and a neighbour with a longer name."""
    address = start_service(RcloneKind(), KEYS)
    objects = {"1/m/MLmodel": "flavours", "1/m/data/model.pkl": "weights", "1/m2/MLmodel": "other"}
    for name, content in objects.items():
        target = address.folder / "data" / "models" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
    return address


@pytest.fixture
async def access(embedded: ServiceAddress) -> ServiceAccess:
    return resolved(await S3Resolver().access("embedded-s3", "s3", OneService(embedded), NO_CLUSTERS, print))


@pytest.fixture
async def store(access: ServiceAccess) -> ObjectStore:
    return fusemld_object_stores()[0].open(access)


@pytest.mark.parametrize("url", ["models/1", "http://models/1", "s3:///1"])
def test_what_is_no_address_in_a_store_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="s3://BUCKET/KEY"):
        split_url(url)


def test_the_embedded_store_answers_for_s3_alone_and_as_mlflows_store_but_only_here() -> None:
    resolver = S3Resolver()

    offers = {(offer.product, offer.services[0].resource, offer.zone) for offer in resolver.offers("process")}

    assert offers == {("s3", "s3", "local"), ("mlflow", "s3", "local")}
    assert resolver.offers("kubernetes") == ()


@pytest.mark.services
@pytest.mark.parametrize("offer", S3Resolver().offers("process"), ids=lambda offer: offer.id)
async def test_a_record_holds_what_step_images_expect_and_its_keys_are_credentials(
    offer: Extension, embedded: ServiceAddress
) -> None:
    record = await S3Resolver().access(offer.id, offer.services[0].id, OneService(embedded), NO_CLUSTERS, print)

    service = record.services[0]
    assert service.endpoints[0].configuration["MLFLOW_S3_ENDPOINT_URL"] == embedded.url
    assert service.endpoints[0].configuration["S3_ENDPOINT"] == f"127.0.0.1:{embedded.port}"
    assert set(service.credentials[0].configuration) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert KEYS["secret_key"] not in repr(record)
    assert (await S3Resolver().check(resolved(record), NO_CLUSTERS)).ok


@pytest.mark.services
async def test_a_prefix_lists_what_is_below_it_and_not_its_neighbours(store: ObjectStore) -> None:
    below = await store.list("s3://models/1/m")
    itself = await store.list("s3://models/1/m/MLmodel")

    assert sorted((found.key, found.size) for found in below) == [("1/m/MLmodel", 8), ("1/m/data/model.pkl", 7)]
    assert [found.key for found in itself] == ["1/m/MLmodel"]
    assert await store.list("s3://models/nothing") == ()


@pytest.mark.services
async def test_a_small_object_is_read_and_a_larger_one_refused(store: ObjectStore) -> None:
    assert await store.read("s3://models/1/m/MLmodel", 8) == b"flavours"
    with pytest.raises(InvalidInputError, match="larger than 7 bytes"):
        await store.read("s3://models/1/m/MLmodel", 7)


@pytest.mark.services
async def test_a_download_keeps_relative_names_and_leaves_nothing_else(store: ObjectStore, tmp_path: Path) -> None:
    await store.download("s3://models/1/m", tmp_path)

    files = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"MLmodel": "flavours", "data/model.pkl": "weights"}


@pytest.mark.services
async def test_what_is_not_there_is_not_found(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        await store.read("s3://models/1/m/gone", 10)
    with pytest.raises(NotFoundError):
        await store.list("s3://no-such-bucket/1")
    with pytest.raises(NotFoundError):
        await store.download("s3://models/gone", tmp_path)


@pytest.mark.parametrize("key", ["m/../../x", "m/a//x", "m/./x", "m/..", "m/a\\b", "m/a\0b"])
def test_a_key_that_would_leave_the_folder_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(InvalidInputError, match="leave the folder"):
        target_path(tmp_path, key, "m")


@pytest.mark.services
async def test_ensuring_a_bucket_twice_keeps_its_objects(store: ObjectStore) -> None:
    await store.ensure_bucket("models")

    assert len(await store.list("s3://models/1/m")) == 2


@pytest.mark.services
async def test_an_object_is_copied_by_the_store_and_the_copy_replaces_what_was_there(store: ObjectStore) -> None:
    await store.copy("s3://models/1/m/data/model.pkl", "s3://models/copies/a b/model.joblib")
    await store.copy("s3://models/1/m/MLmodel", "s3://models/copies/a b/model.joblib")

    assert await store.read("s3://models/copies/a b/model.joblib", 100) == b"flavours"
    assert await store.read("s3://models/1/m/data/model.pkl", 100) == b"weights"
    with pytest.raises(NotFoundError, match="cannot copy s3://models/1/gone"):
        await store.copy("s3://models/1/gone", "s3://models/copies/gone")


@pytest.mark.services
async def test_deleting_takes_everything_below_and_no_neighbour_and_can_be_repeated(store: ObjectStore) -> None:
    for name in ("a/1/x", "a/1/y", "a/11"):
        await store.copy("s3://models/1/m/MLmodel", f"s3://models/deleted/{name}")

    for _ in range(2):
        await store.delete("s3://models/deleted/a/1")

    assert [found.key for found in await store.list("s3://models/deleted")] == ["deleted/a/11"]
    await store.delete("s3://no-such-bucket/x")


@pytest.mark.services
@pytest.mark.parametrize("key", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
async def test_wrong_credentials_are_refused_and_the_check_says_so(access: ServiceAccess, key: str) -> None:
    wrong = ServiceAccess(service=access.service, configuration={**access.configuration, key: "wrong-key-0123456"})
    store = fusemld_object_stores()[0].open(wrong)

    with pytest.raises(ForbiddenError):
        await store.list("s3://models/1")
    result = await S3Resolver().check(wrong, NO_CLUSTERS)

    assert not result.ok
    assert "wrong-key" not in result.message


async def test_a_store_that_is_not_there_is_unavailable() -> None:
    service = ResolvedService(requirement="s", extension_id="e", service_id="s", url="http://127.0.0.1:1")
    access = ServiceAccess(service=service)

    with pytest.raises(UnavailableError, match="cannot list s3://b/k"):
        await fusemld_object_stores()[0].open(access).list("s3://b/k")
    assert not (await S3Resolver().check(access, NO_CLUSTERS)).ok


class SmallCopyServer:
    """An S3 server that copies in one request only what is small, as Amazon's does with 5 GiB, and joins parts.

    rclone copies everything in one request.
    """

    def __init__(self, limit: int, *, breaks: bool = False) -> None:
        self.objects = {"b/large": bytes(range(256)) * 40, "b/small": b"x"}
        self.aborted: list[str] = []
        self._limit = limit
        self._breaks = breaks
        self._parts: dict[int, bytes] = {}

    async def answer(self, request: web.Request) -> web.Response:
        key, query = request.path.lstrip("/"), request.query
        source = self.objects.get(request.headers.get("x-amz-copy-source", "").lstrip("/"), b"")
        match request.method:
            case "HEAD":
                return web.Response(headers={"Content-Length": str(len(self.objects[key]))})
            case "POST" if "uploads" in query:
                return xml("InitiateMultipartUploadResult", "<UploadId>u1</UploadId>")
            case "POST":
                self.objects[key] = b"".join(self._parts[number] for number in sorted(self._parts))
                return xml("CompleteMultipartUploadResult", "<ETag>e</ETag>")
            case "PUT" if "partNumber" in query:
                if self._breaks:
                    return xml("Error", "<Code>AccessDenied</Code><Message>no parts</Message>", 403)
                first, _, last = request.headers["x-amz-copy-source-range"].removeprefix("bytes=").partition("-")
                self._parts[int(query["partNumber"])] = source[int(first) : int(last) + 1]
                return xml("CopyPartResult", f"<ETag>e{query['partNumber']}</ETag>")
            case "PUT" if len(source) > self._limit:
                return xml("Error", "<Code>InvalidRequest</Code><Message>too large a source</Message>", 400)
            case "PUT":
                self.objects[key] = source
                return xml("CopyObjectResult", "<ETag>e</ETag>")
            case _:
                self.aborted.append(query["uploadId"])
                return web.Response(status=204)


def xml(name: str, content: str, status: int = 200) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?><{name}>{content}</{name}>'
    return web.Response(status=status, text=text, content_type="application/xml")


@pytest.fixture
async def serving() -> AsyncIterator[Callable[[SmallCopyServer], Awaitable[ObjectStore]]]:
    """`await serving(server)` is a store there."""
    async with AsyncExitStack() as stack:

        async def start(server: SmallCopyServer) -> ObjectStore:
            app = web.Application()
            app.router.add_route("*", "/{key:.*}", server.answer)
            running = TestServer(app)
            await running.start_server()
            stack.push_async_callback(running.close)
            service = ResolvedService(
                requirement="s", extension_id="e", service_id="s", url=str(running.make_url(""))
            )
            keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"}
            return fusemld_object_stores()[0].open(ServiceAccess(service=service, configuration=keys))

        yield start


async def test_what_is_too_large_for_one_request_is_copied_in_parts(
    serving: Callable[[SmallCopyServer], Awaitable[ObjectStore]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusemld_s3.store.COPY_PART_BYTES", 1000)
    server = SmallCopyServer(limit=100)
    store = await serving(server)

    await store.copy("s3://b/small", "s3://b/copies/small")
    await store.copy("s3://b/large", "s3://b/copies/large")

    assert server.objects["b/copies/small"] == b"x"
    assert server.objects["b/copies/large"] == server.objects["b/large"]


async def test_a_copy_in_parts_that_fails_leaves_none_behind(
    serving: Callable[[SmallCopyServer], Awaitable[ObjectStore]],
) -> None:
    server = SmallCopyServer(limit=100, breaks=True)

    with pytest.raises(ForbiddenError, match=r"cannot copy s3://b/large to s3://b/x at .*no parts"):
        await (await serving(server)).copy("s3://b/large", "s3://b/x")

    assert server.aborted == ["u1"]
    assert "b/x" not in server.objects
