from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.model.extension import (
    Credentials,
    Endpoint,
    EndpointType,
    Extension,
    Scope,
    Selectors,
    Service,
)
from fusemld.registry.matching import Match, match

INSIDE = Endpoint(url="http://in", type=EndpointType.INTERNAL)
OUTSIDE = Endpoint(url="http://out", type=EndpointType.EXTERNAL)


def _record(id_: str = "r", zone: str = "", version: str = "1.4.2", **service: object) -> Extension:
    fields: dict[str, object] = {
        "id": "s",
        "resource": "s3",
        "category": "store",
        "endpoints": (OUTSIDE,),
    } | service
    return Extension(
        id=id_,
        product="mlflow",
        version=version,
        zone=zone,
        services=(Service(**fields),),  # type: ignore[arg-type]
    )


def _match(selectors: Selectors, *records: Extension, zone: str = "local", user: str = "ann") -> Match:
    return match(selectors, records, zone=zone, project="team", user=user)


def _url(found: Match) -> str | None:
    return None if found.chosen is None or found.chosen.endpoint is None else found.chosen.endpoint.url


def _s3(**selectors: str) -> Selectors:
    return Selectors(name="store", **({"service_resource": "s3"} | selectors))


@pytest.mark.parametrize(
    ("selector", "value", "other"),
    [
        ("extension_id", "r", "q"),
        ("product", "mlflow", "minio"),
        ("version", "~1.4", "~1.5"),
        ("service_id", "s", "t"),
        ("service_resource", "s3", "gcs"),
        ("service_category", "store", "serving"),
    ],
)
def test_every_selector_that_is_set_must_agree(selector: str, value: str, other: str) -> None:
    agreeing = Selectors(name="x", **{selector: value})
    everything = Selectors(
        name="x",
        **{
            "extension_id": "r",
            "product": "mlflow",
            "version": "1.4.2",
            "service_id": "s",
            "service_resource": "s3",
            "service_category": "store",
            selector: other,
        },
    )

    assert _match(agreeing, _record()).chosen is not None
    refused = _match(everything, _record())
    assert refused.chosen is None
    assert [miss.selector for miss in refused.near_misses] == [selector]


def test_without_a_selector_any_service_matches_in_the_usual_order() -> None:
    records = (_record("b"), _record("a", resource="gcs"), _record("c", zone="local", category=""))

    found = _match(Selectors(name="anything"), *records)

    assert [candidate.extension.id for candidate in found.candidates] == ["c", "a", "b"]


def test_what_no_selector_refuses_is_near_although_it_cannot_be_used() -> None:
    locked = _record("locked", auth_required=True)
    elsewhere = _record("elsewhere", zone="cluster", endpoints=(INSIDE,))

    found = _match(Selectors(name="anything"), locked, elsewhere)

    assert [(miss.extension_id, miss.selector) for miss in found.near_misses] == [
        ("elsewhere", "zone"),
        ("locked", "credentials"),
    ]


def test_a_near_miss_names_what_refused_first_and_why() -> None:
    (miss,) = _match(_s3(product="mlflow", version="^2", service_category="x"), _record()).near_misses

    assert str(miss) == "r/s: its version is '1.4.2', and '^2' is required"


def test_what_agrees_in_nothing_that_matters_is_no_near_miss() -> None:
    found = _match(_s3(version="1.4.2", zone="cluster"), _record(resource="gcs", zone="cluster"))

    assert found == Match()


def test_a_record_without_services_is_a_near_miss_of_its_product() -> None:
    (miss,) = _match(_s3(product="mlflow"), Extension(id="r", product="mlflow")).near_misses

    assert (miss.selector, str(miss)) == ("services", "r: it has no services: add one to the record")


@pytest.mark.parametrize(
    ("zone_of_record", "zone_of_executor", "own_zone", "url"),
    [
        ("local", "local", None, "http://in"),
        ("cluster", "local", None, "http://out"),
        ("", "local", None, "http://in"),
        ("cluster", "local", "cluster", "http://in"),
        ("local", "local", "cluster", "http://out"),
    ],
)
def test_internal_endpoints_are_for_the_own_zone(
    zone_of_record: str, zone_of_executor: str, own_zone: str | None, url: str
) -> None:
    record = _record(zone=zone_of_record, endpoints=(OUTSIDE, INSIDE))

    found = _match(Selectors(name="x", service_resource="s3", zone=own_zone), record, zone=zone_of_executor)

    assert _url(found) == url


def test_a_service_with_only_internal_endpoints_is_refused_from_elsewhere() -> None:
    found = _match(_s3(), _record(zone="cluster", endpoints=(INSIDE,)))

    assert found.chosen is None
    assert [(miss.selector, miss.reason) for miss in found.near_misses] == [
        (
            "zone",
            (
                "its endpoints are internal to the zone 'cluster', and the step is in the zone 'local': "
                "add an external endpoint"
            ),
        )
    ]


def _credentials(id_: str, scope: Scope = Scope.GLOBAL, **fields: object) -> Credentials:
    return Credentials(id=id_, scope=scope, configuration={"SECRET": "hunter2"}, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("available", "chosen"),
    [
        ([_credentials("g")], "g"),
        ([_credentials("g"), _credentials("p", Scope.PROJECT, projects=("team",))], "p"),
        (
            [_credentials("p", Scope.PROJECT, projects=("team",)), _credentials("u", Scope.USER, users=("ann",))],
            "u",
        ),
        ([_credentials("g"), _credentials("p", Scope.PROJECT, projects=("other",), default=True)], "g"),
        ([_credentials("g"), _credentials("u", Scope.USER, users=("bob",), default=True)], "g"),
        ([_credentials("g"), _credentials("u", Scope.USER, users=("ann",), projects=("other",))], "g"),
        ([_credentials("b"), _credentials("a")], "a"),
        ([_credentials("a"), _credentials("b", default=True)], "b"),
        ([_credentials("a", default=True), _credentials("p", Scope.PROJECT, projects=("team",))], "p"),
    ],
)
def test_the_narrowest_credentials_that_cover_user_and_project_win(
    available: list[Credentials], chosen: str
) -> None:
    for order in itertools.permutations(available):
        found = _match(_s3(), _record(auth_required=True, credentials=order)).chosen

        assert found is not None
        assert found.credentials is not None
        assert found.credentials.id == chosen


def test_a_service_that_needs_authentication_is_refused_without_usable_credentials() -> None:
    found = _match(
        _s3(),
        _record(auth_required=True, credentials=(_credentials("u", Scope.USER, users=("bob",)),)),
    )

    assert found.chosen is None
    assert [str(miss) for miss in found.near_misses] == [
        (
            "r/s: it needs authentication, and none of its credentials is for user 'ann' in project 'team': "
            "add credentials of a scope that covers them"
        )
    ]


def test_a_service_that_needs_none_is_used_without() -> None:
    found = _match(_s3(), _record(credentials=(_credentials("u", Scope.USER, users=("bob",)),))).chosen

    assert found is not None
    assert found.credentials is None


def test_the_own_zone_comes_before_internal_endpoints_before_ids() -> None:
    records = [
        _record("a", zone="cluster"),
        _record("b", zone=""),
        _record("c", zone="local"),
        _record("d", zone="local", endpoints=(INSIDE,)),
        _record("e", zone="local", endpoints=(INSIDE, Endpoint(url="http://even", type=EndpointType.INTERNAL))),
    ]

    found = _match(_s3(), *records)

    assert [
        (candidate.extension.id, candidate.endpoint.url) for candidate in found.candidates if candidate.endpoint
    ] == [
        ("d", "http://in"),
        ("e", "http://even"),
        ("e", "http://in"),
        ("c", "http://out"),
        ("a", "http://out"),
        ("b", "http://out"),
    ]


def test_an_offer_needs_neither_endpoint_nor_credentials() -> None:
    offer = _record(auth_required=True, endpoints=())

    assert _match(_s3(), offer).chosen is None
    found = match(_s3(), [offer], zone="local", project="p", user="u", offers=True).chosen
    assert found is not None
    assert found.endpoint is None


def test_nothing_that_is_shown_holds_a_credential() -> None:
    record = _record(
        auth_required=True, credentials=(_credentials("g"), _credentials("u", Scope.USER, users=("x",)))
    )

    assert "hunter2" not in repr(_match(_s3(), record))
    assert "hunter2" not in repr(_match(_s3(version="^9"), record))


WORDS = st.sampled_from(["", "a", "b"])
ENDPOINTS = st.builds(Endpoint, url=WORDS, type=st.sampled_from(EndpointType))
CREDENTIALS = st.builds(
    Credentials,
    id=WORDS,
    scope=st.sampled_from(Scope),
    default=st.booleans(),
    projects=st.sampled_from([(), ("a",), ("b",)]),
    users=st.sampled_from([(), ("a",), ("b",)]),
)
SERVICES = st.builds(
    Service,
    id=WORDS,
    resource=WORDS,
    category=WORDS,
    auth_required=st.booleans(),
    endpoints=st.lists(ENDPOINTS, max_size=3, unique_by=lambda endpoint: endpoint.url).map(tuple),
    credentials=st.lists(CREDENTIALS, max_size=3, unique_by=lambda entry: entry.id).map(tuple),
)
RECORDS = st.builds(
    Extension,
    id=st.sampled_from(["a", "b", "c", "d"]),
    product=WORDS,
    version=st.sampled_from(["", "1.0", "1.5"]),
    zone=WORDS,
    services=st.lists(SERVICES, max_size=3, unique_by=lambda service: service.id).map(tuple),
)
MAYBE = st.one_of(st.none(), WORDS)
SELECTORS = st.builds(
    Selectors,
    name=st.just("x"),
    product=MAYBE,
    version=st.sampled_from([None, "^1.2"]),
    zone=MAYBE,
    service_resource=MAYBE,
    service_category=MAYBE,
)


@given(
    selectors=SELECTORS,
    records=st.lists(RECORDS, max_size=4, unique_by=lambda record: record.id),
    data=st.data(),
)
def test_the_outcome_does_not_depend_on_the_order_of_records_and_their_parts(
    selectors: Selectors, records: list[Extension], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(records))

    found = match(selectors, records, zone="a", project="a", user="a")
    again = match(selectors, shuffled, zone="a", project="a", user="a")

    assert found == again
    for candidate in found.candidates:
        assert selectors.product in (None, candidate.extension.product)
        assert selectors.service_resource in (None, candidate.service.resource)
        assert candidate.credentials is not None or not candidate.service.auth_required
