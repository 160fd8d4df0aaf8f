from __future__ import annotations

from collections.abc import Callable

import pytest

from fusemld.model.codeset import Codeset
from fusemld.model.document import Assignment
from fusemld.model.extension import (
    Credentials,
    Endpoint,
    EndpointType,
    Extension,
    Scope,
    SecretReference,
)
from fusemld.spec.documents import Parsed

RECORD = """\
id: mlflow-0001
product: mlflow
version: 1.19
zone: cluster.local
description: the team's MLflow
configuration: {SHARED: 1}
status: {registered: "2021"}
services:
  - id: mlflow-tracking
    resource: mlflow-tracking
    category: experiment-tracking
    authrequired: false
    extension_id: ignored
    endpoints:
      - {url: "http://mlflow:5000", type: internal, configuration: {MLFLOW_TRACKING_URI: "http://mlflow:5000"}}
      - {url: "http://mlflow.example.org"}
  - id: store
    resource: s3
    auth_required: yes
    credentials:
      - id: everybody
        default: true
        configuration: {AWS_ACCESS_KEY_ID: hunter1, AWS_SECRET_ACCESS_KEY: hunter2}
      - {id: mine, scope: user, users: [ann], configuration: {AWS_SECRET_ACCESS_KEY: {from_env: KEY}}}
"""


def test_a_record_of_the_reference_is_read(read_text: Callable[[str], Parsed]) -> None:
    parsed = read_text(RECORD)

    assert parsed.problems == ()
    record = parsed.documents[0].declared
    assert isinstance(record, Extension)
    tracking, store = record.services
    assert (record.version, record.zone, record.configuration) == ("1.19", "cluster.local", {"SHARED": "1"})
    assert tracking.endpoints == (
        Endpoint(
            url="http://mlflow:5000",
            type=EndpointType.INTERNAL,
            configuration={"MLFLOW_TRACKING_URI": "http://mlflow:5000"},
        ),
        Endpoint(url="http://mlflow.example.org"),
    )
    assert (tracking.auth_required, store.auth_required) == (False, True)
    assert store.credentials == (
        Credentials(
            id="everybody",
            default=True,
            configuration={"AWS_ACCESS_KEY_ID": "hunter1", "AWS_SECRET_ACCESS_KEY": "hunter2"},
        ),
        Credentials(
            id="mine",
            scope=Scope.USER,
            users=("ann",),
            configuration={"AWS_SECRET_ACCESS_KEY": SecretReference(from_env="KEY")},
        ),
    )


def test_credentials_are_hidden_in_the_document_and_count_for_its_digest(
    read_text: Callable[[str], Parsed],
) -> None:
    (before,) = read_text(RECORD).documents
    (after,) = read_text(RECORD.replace("hunter2", "hunter3")).documents

    assert "hunter" not in repr(before)
    assert "hunter" not in before.canonical
    assert before.canonical == after.canonical
    assert before.digest != after.digest


@pytest.mark.parametrize(
    "wrong",
    [
        "[hunter2]",
        "{from_env: hunter2, from_file: hunter2}",
        "{from_file: hunter2}",
        "{from_secret: hunter2}",
        "{value: hunter2}",
        "{from_env: [hunter2]}",
    ],
)
def test_messages_never_quote_what_stands_under_credentials(
    findings: Callable[[str], list[str]], wrong: str
) -> None:
    found = findings(f"id: x\nservices: [{{id: s, credentials: [{{id: c, configuration: {{K: {wrong}}}}}]}}]\n")

    assert found
    assert not any("hunter2" in finding for finding in found)


@pytest.mark.parametrize(
    ("url", "held"),
    [
        ("http://ann:hunter2@h", "a password"),
        ("s3://ann:hunter2@h", "a password"),
        ("https://hunter2@h", "a user name, which may be a token"),
    ],
)
def test_the_url_of_an_endpoint_holds_no_credentials(
    findings: Callable[[str], list[str]], url: str, held: str
) -> None:
    (found,) = findings(f"id: x\nservices: [{{id: s, endpoints: [{{url: '{url}'}}]}}]\n")

    assert found == (
        f"f:2:38: the url of an endpoint holds {held}, and URLs are not secret: "
        "move it to the service's 'credentials'"
    )


def test_an_endpoint_may_name_the_user_where_that_is_no_token(read_text: Callable[[str], Parsed]) -> None:
    parsed = read_text("id: x\nservices: [{id: s, endpoints: [{url: 'postgresql://ann@h/mlflow'}]}]\n")

    assert parsed.problems == ()


def test_mistakes_of_a_record_are_named_with_place_and_remedy(findings: Callable[[str], list[str]]) -> None:
    assert findings("""\
id: x
configuration: {K: {from_env: V}}
services:
  - id: s
    auth_required: maybe
    endpoints: [{url: ""}, {url: "http://ann:secret@host"}, {url: u, type: extern}]
    credentials:
      - {id: c, scope: project}
      - {id: c, scope: user}
  - {id: s, auth_required: true, authrequired: false}
""") == [
        (
            "f:2:20: 'K' in 'configuration' of an extension must be text, not a mapping: "
            "references to secrets belong under 'credentials'"
        ),
        "f:5:20: 'auth_required' of a service must be true or false",
        "f:6:23: the url of an endpoint is empty: give its address, or remove the endpoint",
        (
            "f:6:34: the url of an endpoint holds a password, and URLs are not secret: "
            "move it to the service's 'credentials'"
        ),
        "f:6:76: 'type' of an endpoint cannot be 'extern': did you mean 'external'?",
        "f:8:14: credentials of scope project need 'projects': list who may use them",
        "f:9:14: two credentials of service 's' have the id 'c' (the first in line 8): change one",
        "f:9:14: credentials of scope user need 'users': list who may use them",
        "f:10:10: two services have the id 's' (the first in line 4): change one",
        "f:10:10: 'auth_required' and 'authrequired' disagree: remove one of them",
    ]


@pytest.mark.parametrize(
    ("text", "codeset"),
    [
        ("name: c\npath: ../src/./c\n", Codeset(name="c", path="/watched/src/c")),
        ("name: c\npath: /srv/c/\nproject: p\n", Codeset(name="c", project="p", path="/srv/c")),
        (
            "name: c\nurl: git@example.org:team/c.git\nref: v1\nextension: git\nlabels: [a]\ndescription: d\n",
            Codeset(
                name="c",
                url="git@example.org:team/c.git",
                ref="v1",
                extension="git",
                labels=("a",),
                description="d",
            ),
        ),
        ("name: c\nurl: file:///srv/c.git\n", Codeset(name="c", url="file:///srv/c.git")),
        ("name: c\nurl: ssh://git@h/c.git\n", Codeset(name="c", url="ssh://git@h/c.git")),
        ("name: c\nurl: https://h/@ann/c.git\n", Codeset(name="c", url="https://h/@ann/c.git")),
    ],
)
def test_a_codeset_is_a_folder_or_a_repository(
    read_text: Callable[[str], Parsed], text: str, codeset: Codeset
) -> None:
    parsed = read_text(text)

    assert parsed.problems == ()
    assert parsed.documents[0].declared == codeset


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("kind: codeset\nname: c\n", "f:2:7: codeset 'c' has neither a 'url' nor a 'path': add one of them"),
        (
            "name: c\nurl: https://h/x\npath: .\n",
            "f:1:7: codeset 'c' has both a 'url' and a 'path': keep one of them",
        ),
        ("name: c\nurl: ftp://h/x\n", "f:2:6: this is not the url of a git repository: it starts with https://"),
        ("name: c\nurl: https://ann:hunter2@h/x\n", "f:2:6: the url holds a password, and URLs are not secret"),
        ("name: c\nurl: ssh://ann:hunter2@h/x\n", "f:2:6: the url holds a password, and URLs are not secret"),
        (
            "name: c\nurl: https://hunter2@h/x\n",
            "f:2:6: the url holds a user name, which may be a token, and URLs are not secret: put it under ",
        ),
        ("name: c\nurl: HTTP://hunter2@h/x\n", "f:2:6: the url holds a user name, which may be a token"),
        ("name: c\npath: .\nref: v1\n", "f:3:6: 'ref' is for git repositories, and this codeset is a folder"),
        ('name: c\npath: ""\n', "f:2:7: the path of a codeset is empty: name a folder"),
    ],
)
def test_mistakes_of_a_codeset_are_named(findings: Callable[[str], list[str]], text: str, finding: str) -> None:
    (found,) = findings(text)

    assert found.startswith(finding)
    assert "hunter2" not in found


def test_an_assignment_may_list_codesets_as_the_reference_server_does(read_text: Callable[[str], Parsed]) -> None:
    parsed = read_text("""\
workflow: w
codesets:
  - {name: c, project: p, description: d, labels: [a], url: u}
  - d
input: code
inputs: {n: 1}
name: nightly
status: {available: true}
""")

    assert parsed.problems == ()
    declared = parsed.documents[0].declared
    assert isinstance(declared, Assignment)
    assert [str(reference) for reference in declared.codesets] == ["p/c", "default/d"]
    assert (declared.name, declared.input, declared.inputs) == ("nightly", "code", {"n": "1"})


@pytest.mark.parametrize(
    ("codesets", "finding"),
    [
        ("[]", "f:1:11: an assignment needs at least one codeset: add one under 'codesets'"),
        ("[a/b/c]", "f:2:12: 'a/b/c' is not a codeset reference: write NAME or PROJECT/NAME, either with @REF"),
        ("[a, default/a]", "f:2:15: the codeset 'default/a' is listed twice (first in line 2): remove one"),
        ('["{{ inputs.x }}"]', "f:2:12: an entry of 'codesets' of an assignment: no expression is allowed here"),
    ],
)
def test_mistakes_of_an_assignment_are_named(
    findings: Callable[[str], list[str]], codesets: str, finding: str
) -> None:
    (found,) = findings(f"workflow: w\ncodesets: {codesets}\n")

    assert found.startswith(finding)
