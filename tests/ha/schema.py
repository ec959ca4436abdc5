"""Checks a Kubernetes manifest against the models of Kubernetes' Python client, which are made from its OpenAPI description:
`/usr/bin/python3 schema.py FILE` with Debian's python3-kubernetes and python3-yaml. Prints one line for each fault.

Checked: the kind and version exist; each field exists and has the right type; required fields are there; values that the
models restrict. Not checked: what only a cluster knows, such as whether an image, a storage class or an annotation exists, and
what admission rules say.
"""

import re
import sys

import yaml
from kubernetes import client

PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object, "datetime": str}


def model(document):
    """The model of a document's kind: apps/v1 StatefulSet is V1StatefulSet."""
    version = document["apiVersion"].rpartition("/")[2]
    return getattr(client, version[0].upper() + version[1:] + document["kind"], None)


def faults(value, kind, where):
    """What is wrong with a value that should be of a kind, in the words of the models: `list[V1Container]`, `dict(str, str)`."""
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            yield f"{where}: not a list"
            return
        for number, one in enumerate(value):
            yield from faults(one, match[1], f"{where}[{number}]")
    elif match := re.fullmatch(r"dict\(str, (.*)\)", kind):
        if not isinstance(value, dict):
            yield f"{where}: not a map"
            return
        for name, one in value.items():
            yield from faults(one, match[1], f"{where}.{name}")
    elif kind in PLAIN:
        # A yes or no is a number to Python, and not to Kubernetes. What is "object" may be a number or a text.
        if not isinstance(value, PLAIN[kind]) or (isinstance(value, bool) and kind not in ("bool", "object")):
            yield f"{where}: {value!r} is no {kind}"
    else:
        yield from of_model(value, getattr(client, kind), where)


def of_model(value, kind, where):
    if not isinstance(value, dict):
        yield f"{where}: not a {kind.__name__}"
        return
    attributes = {name: attribute for attribute, name in kind.attribute_map.items()}
    for name, one in value.items():
        if name in attributes:
            yield from faults(one, kind.openapi_types[attributes[name]], f"{where}.{name}")
        else:
            yield f"{where}.{name}: {kind.__name__} has no such field"
    # Each model refuses what is missing, or is none of the values that there are.
    try:
        kind(**{attributes[name]: one for name, one in value.items() if name in attributes})
    except ValueError as error:
        yield f"{where}: {error}"


def main(file):
    found = []
    documents = list(yaml.safe_load_all(open(file)))
    for document in documents:
        kind = model(document)
        where = f"{document.get('kind')}/{document['metadata']['name']}"
        found += list(of_model(document, kind, where)) if kind else [f"{where}: no such kind"]
    print("\n".join(found) or f"{len(documents)} documents are as Kubernetes describes them")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
