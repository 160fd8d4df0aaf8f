from __future__ import annotations

from collections.abc import Callable

import pytest

HEAD = """\
name: w
inputs:
  - {name: code, type: codeset}
  - {name: epochs, type: int, default: 3}
"""

TABLE = {
    "undeclared output": (
        """\
steps:
  - {name: a, image: i, outputs: [{name: image}]}
  - {name: b, image: "{{ steps.a.outputs.imag }}"}
""",
        ["f:7:26: step 'a' declares no output 'imag': did you mean 'image'?"],
    ),
    "unknown input": (
        """\
steps:
  - {name: a, image: i, args: ["--n={{ inputs.epoch }}"]}
""",
        ["f:6:40: unknown input 'epoch': did you mean 'epochs'?"],
    ),
    "unknown step": (
        """\
steps:
  - {name: a, image: "{{ steps.zzz.outputs.x }}"}
""",
        ["f:6:26: unknown step 'zzz': the steps are a"],
    ),
    "forward reference": (
        """\
steps:
  - {name: a, image: "{{ steps.b.outputs.x }}"}
  - {name: b, image: i, outputs: [{name: x}]}
""",
        [
            (
                "f:6:26: step 'a' refers to the output 'x' of step 'b', which is listed further below: "
                "list 'b' above 'a'"
            )
        ],
    ),
    "forward need": (
        """\
steps:
  - {name: a, image: i, needs: [b]}
  - {name: b, image: i}
""",
        ["f:6:33: step 'a' needs step 'b', which is listed further below: list 'b' above 'a'"],
    ),
    "self reference": (
        """\
steps:
  - {name: a, image: "{{ steps.a.outputs.x }}", outputs: [{name: x}]}
""",
        ["f:6:26: step 'a' refers to its own output 'x', which exists only after it has ended: remove it"],
    ),
    "self need": (
        """\
steps:
  - {name: a, image: i, needs: [a]}
""",
        ["f:6:33: step 'a' needs itself: remove it from 'needs'"],
    ),
    "unknown need": (
        """\
steps:
  - {name: train, image: i}
  - {name: b, image: i, needs: [trian]}
""",
        ["f:7:33: step 'b' needs the unknown step 'trian': did you mean 'train'?"],
    ),
    "cycle": (
        """\
steps:
  - {name: a, image: i, needs: [c]}
  - {name: b, image: i, needs: [a], outputs: [{name: x}]}
  - {name: c, image: "{{ steps.b.outputs.x }}"}
""",
        [
            (
                "f:6:33: the steps wait for each other in a cycle: a -> c -> b -> a (each needs the next): "
                "remove one of these needs"
            )
        ],
    ),
    "names that are none": (
        """\
steps:
  - {name: "a\\n", image: i, needs: [b]}
  - {name: b, image: "{{ steps.zzz.outputs.x }}", needs: ["a\\n"]}
""",
        [
            (
                r"f:6:12: 'name' of a step: 'a\n' is not a valid name: use up to 100 letters, digits, "
                "'.', '_' and '-', and start with a letter or digit"
            ),
            (
                r"f:6:37: the steps wait for each other in a cycle: 'a\n' -> b -> 'a\n' (each needs the next): "
                "remove one of these needs"
            ),
            r"f:7:26: unknown step 'zzz': the steps are 'a\n', b",
        ],
    ),
    "two steps of one name": (
        """\
steps:
  - {name: a, image: i}
  - {name: a, image: i}
""",
        ["f:7:12: two steps are named 'a' (the first in line 6): rename one"],
    ),
    "two of one name elsewhere": (
        """\
  - {name: code, type: codeset}
outputs:
  - {name: o, value: x}
  - {name: o, value: x}
steps:
  - name: a
    image: i
    outputs: [{name: x}, {name: x}]
    extensions: [{name: e, product: p}, {name: e, product: p}]
""",
        [
            "f:5:12: two workflow inputs are named 'code' (the first in line 3): rename one",
            "f:8:12: two workflow outputs are named 'o' (the first in line 7): rename one",
            "f:12:33: two outputs of step 'a' are named 'x' (the first in line 12): rename one",
            "f:13:48: two extensions of step 'a' are named 'e' (the first in line 13): rename one",
        ],
    ),
    "bad type": (
        """\
  - {name: x, type: integer}
steps:
  - {name: a, image: i}
""",
        ["f:5:21: 'type' of a workflow input cannot be 'integer': did you mean 'int'?"],
    ),
    "default that does not fit": (
        """\
  - {name: i, type: int, default: 1.5}
  - {name: f, type: float, default: much}
  - {name: b, type: bool, default: 1}
  - {name: p, type: path, default: ""}
  - {name: c, type: codeset, default: a/b/c}
steps:
  - {name: a, image: i}
""",
        [
            "f:5:35: the default of input 'i': '1.5' is not an int: write a whole number such as 10",
            "f:6:37: the default of input 'f': 'much' is not a float: write a number such as 0.5",
            "f:7:36: the default of input 'b': '1' is not a bool: write true or false",
            "f:8:36: the default of input 'p': a path cannot be empty: name a file or folder",
            (
                "f:9:39: the default of input 'c': 'a/b/c' is not a codeset reference: "
                "write NAME or PROJECT/NAME, either with @REF"
            ),
        ],
    ),
    "unknown field": (
        """\
steps:
  - {name: a, imgae: i, image: i, foo: 1}
""",
        [
            "f:6:15: unknown field 'imgae' of a step: did you mean 'image'?",
            (
                "f:6:35: unknown field 'foo' of a step: it has name, image, inputs, outputs, extensions, "
                "env, resources, "
                "needs, retry, timeout, command, args"
            ),
        ],
    ),
    "missing field": (
        """\
steps:
  - {name: a}
  - {image: i}
""",
        [
            "f:6:5: a step needs 'image': the container image",
            "f:7:5: a step needs 'name': unique in the workflow",
        ],
    ),
    "wrong form": (
        """\
steps:
  - {name: [a], image: i, inputs: {a: 1}, env: 3, retry: {limit: many}, needs: a}
  - step
""",
        [
            "f:6:12: 'name' of a step must be a name, not a list",
            "f:6:35: 'inputs' of a step must be a list (lines that start with '- '), not a mapping",
            "f:6:48: 'env' of a step must be a list (lines that start with '- '), not a number",
            "f:6:66: 'limit' of a retry must be a whole number from 0 to 100",
            "f:6:80: 'needs' of a step must be a list (lines that start with '- '), not text",
            "f:7:5: an entry of 'steps' of a workflow must be a mapping with name, image, not text",
        ],
    ),
    "a value where a mapping belongs": (
        """\
steps:
  - {name: a, image: i, retry: 3, resources: 2.5, inputs: [{name: c, codeset: code}]}
  - {name: b, image: i, retry: often}
  - {name: c, image: i, retry: [3]}
""",
        [
            (
                "f:6:32: 'retry' of a step must be a mapping with limit, not a number: "
                "write for instance retry: {limit: 3}"
            ),
            (
                "f:6:46: 'resources' of a step must be a mapping, not a number: "
                "write for instance resources: {requests: {cpu: 1}}"
            ),
            (
                "f:6:79: 'codeset' of a step input must be a mapping with name, not text: "
                'write for instance codeset: {name: "{{ inputs.NAME }}"}'
            ),
            (
                "f:7:32: 'retry' of a step must be a mapping with limit, not text: "
                "write for instance retry: {limit: 3}"
            ),
            (
                "f:8:32: 'retry' of a step must be a mapping with limit, not a list: "
                "write for instance retry: {limit: 3}"
            ),
        ],
    ),
    "names that are missing": (
        """\
steps:
  - {nam: a, image: i, inputs: [{name: x}], extensions: [{nam: e}], command: ["{{ steps.z.outputs.x }}"]}
  - {name: b, image: i}
  - {image: i, needs: [c, zzz]}
  - {name: c, image: i}
""",
        [
            "f:6:5: a step needs 'name': unique in the workflow",
            "f:6:6: unknown field 'nam' of a step: did you mean 'name'?",
            (
                "f:6:40: warning: input 'x' of the step has no value, so the step does not see it: "
                "give it a 'value' or a 'codeset'"
            ),
            (
                "f:6:58: an extension of a step needs 'name': "
                "how expressions of the step refer to it: {{ extensions.NAME.url }}"
            ),
            (
                "f:6:58: warning: the extension of the step names no selector, so any service matches: "
                "give it a 'product', a 'service_resource' or another one"
            ),
            "f:6:59: unknown field 'nam' of an extension of a step: did you mean 'name'?",
            "f:6:83: unknown step 'z': the steps are b, c",
            "f:8:5: a step needs 'name': unique in the workflow",
            "f:8:24: the step needs step 'c', which is listed further below: list that one first",
            "f:8:27: the step needs the unknown step 'zzz': name a step of this workflow",
        ],
    ),
    "expression where none is allowed": (
        """\
  - {name: "{{ run.id }}", default: "{{ run.id }}"}
steps:
  - name: a
    image: i
    timeout: "{{ inputs.epochs }}"
    inputs: [{name: c, codeset: {name: x, path: "/{{ run.id }}"}}]
""",
        [
            "f:5:12: 'name' of a workflow input: no expression is allowed here: write the text itself",
            "f:5:37: 'default' of a workflow input: no expression is allowed here: write the text itself",
            (
                "f:9:14: 'timeout' of a step: '{{ inputs.epochs }}' is not a duration: "
                "write a number and s, m, h or d, such as 90s, 15m, 2h or 1d"
            ),
            "f:10:49: 'path' of a codeset of a step input: no expression is allowed here: write the text itself",
        ],
    ),
    "not supported yet": (
        """\
schedule: "0 * * * *"
finally: []
concurrency:
steps:
  - {name: a, image: i, when: x, matrix: {}, cache: ~}
""",
        [
            "f:5:1: 'schedule' of a workflow is not supported yet: remove it",
            "f:6:1: 'finally' of a workflow is not supported yet: remove it",
            "f:7:1: 'concurrency' of a workflow is not supported yet: remove it",
            "f:9:25: 'when' of a step is not supported yet: remove it",
            "f:9:34: 'matrix' of a step is not supported yet: remove it",
            "f:9:46: 'cache' of a step is not supported yet: remove it",
        ],
    ),
    "extension references": (
        """\
outputs:
  - {name: o, value: "{{ extensions.e.url }}"}
steps:
  - name: a
    image: "{{ extensions.other.url }}"
    extensions:
      - {name: e, product: "{{ extensions.e.product }}"}
      - {name: f}
    args: ["{{ extensions.e.port }}"]
""",
        [
            (
                "f:6:26: a workflow output cannot refer to an extension: "
                "let a step write the value to one of its outputs"
            ),
            "f:9:16: the step requires no extension 'other': list it under the step's 'extensions'",
            (
                "f:11:32: a selector cannot refer to an extension, because selectors decide which one is meant: "
                "use an input instead"
            ),
            (
                "f:12:16: warning: extension 'f' of step 'a' names no selector, so any service matches: "
                "give it a 'product', a 'service_resource' or another one"
            ),
            (
                "f:13:16: unknown field 'port' of the extension 'e': it has url, product, version, zone, "
                "service_resource, service_category, and configuration values at {{ extensions.e.cfg.KEY }}"
            ),
        ],
    ),
    "workflow outputs": (
        """\
outputs:
  - {name: url}
  - {name: image, value: "{{ steps.a.outputs.imag }}"}
steps:
  - {name: a, image: i, outputs: [{name: urls}, {name: image}]}
""",
        [
            (
                "f:6:12: no step declares the output 'url': did you mean 'urls'? "
                "Add it to a step's 'outputs', or give this one a 'value'"
            ),
            "f:7:30: step 'a' declares no output 'imag': did you mean 'image'?",
        ],
    ),
    "step inputs": (
        """\
steps:
  - name: a
    image: ""
    inputs:
      - {name: x}
      - {name: y, value: 1, codeset: {name: c, path: /c}}
""",
        [
            "f:7:12: the image of step 'a' is empty: name a container image",
            (
                "f:9:16: warning: input 'x' of step 'a' has no value, so the step does not see it: "
                "give it a 'value' or a 'codeset'"
            ),
            "f:10:16: input 'y' of step 'a' has both a 'value' and a 'codeset': remove one",
        ],
    ),
    "codeset mounts": (
        """\
steps:
  - name: a
    image: "{{ inputs.epochs.version }}"
    outputs: [{name: o}]
    inputs:
      - {name: c1, codeset: {name: "{{ inputs.epochs }}", path: relative}}
      - {name: c2, codeset: {name: "{{ inputs.code }}", path: /a/../b}}
      - {name: c3, codeset: {name: "a b", path: /}}
      - {name: c4, codeset: {name: "{{ inputs.code.version }}", path: /p}}
      - {name: c5, codeset: {name: other, path: /p/}}
  - name: b
    image: i
    inputs:
      - {name: c6, codeset: {name: "{{ steps.a.outputs.o }}", path: /q}}
""",
        [
            (
                "f:7:16: input 'epochs' is of type int and has no 'version': write {{ inputs.epochs }}, "
                "or declare it with type: codeset"
            ),
            (
                "f:10:36: input 'epochs' is of type int, not a codeset: declare it with type: codeset, "
                "or use its value with 'value'"
            ),
            "f:10:65: 'path' of a codeset of a step input: 'relative' is not an absolute path: start it with '/'",
            (
                "f:11:63: 'path' of a codeset of a step input: '/a/../b' cannot be mounted at: "
                "name a folder of its own such as /project, without '..'"
            ),
            "f:12:36: 'a b' is not a valid name of a codeset or project: use letters, digits, '.', '_' and '-'",
            (
                "f:12:49: 'path' of a codeset of a step input: '/' cannot be mounted at: "
                "name a folder of its own such as /project, without '..'"
            ),
            "f:13:36: the version of a codeset is only known once the codeset is: write {{ inputs.code }}",
            "f:14:49: the codesets of 'c4' and 'c5' are both at /p: give each its own 'path'",
            (
                "f:18:40: a codeset must be known when the run starts, before any step has an output: "
                "use a workflow input"
            ),
        ],
    ),
    "durations that nobody lives to see": (
        """\
steps:
  - name: a
    image: i
    timeout: 999999999d
    retry: {limit: 1, backoff: 3651d, max_backoff: 9999999h}
""",
        [
            "f:8:14: 'timeout' of a step: '999999999d' is too long a duration: the longest is 3650d, ten years",
            "f:9:32: 'backoff' of a retry: '3651d' is too long a duration: the longest is 3650d, ten years",
            "f:9:52: 'max_backoff' of a retry: '9999999h' is too long a duration: the longest is 3650d, ten years",
        ],
    ),
    "numbers with units": (
        """\
steps:
  - name: a
    image: i
    timeout: 0s
    retry: {limit: 1, backoff: 2m, max_backoff: 90s}
    resources: {requests: {cpu: many}}
    env: [{name: "A=B", value: 1}]
""",
        [
            "f:8:14: 'timeout' of a step must be longer than nothing: write for instance 1h",
            "f:9:49: 'max_backoff' is shorter than 'backoff': make it at least as long",
            (
                "f:10:33: 'cpu' of the resources of step 'a' is not a quantity: "
                "write a number with an optional unit, such as 1, 500m or 2Gi"
            ),
            (
                "f:11:18: 'name' of an environment variable: 'A=B' cannot be the name of an environment variable: "
                "use letters, digits and '_'"
            ),
        ],
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_every_mistake_is_named_with_its_place_and_remedy(findings: Callable[[str], list[str]], case: str) -> None:
    text, expected = TABLE[case]

    assert findings(HEAD + text) == expected
