"""Write `deploy/devcluster/apiserver/http/wire.txt`: the protobuf numbers of a pod's fields.

From the Go types of the module k8s.io/api, whose tags hold the number and the JSON name of each field. Run it again
when `kubectl` sends a field that is not known:

    go mod download -json k8s.io/api@v0.33.1        prints the directory
    python tools/kubernetes_wire.py DIRECTORY

A line is a message, as `protobuf.py` reads it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

TARGET = Path(__file__).parents[1] / "deploy" / "devcluster" / "apiserver" / "wire.txt"
ROOT = "PodSpec"
_KNOWN = {
    "string": "s", "bool": "b", "int": "i", "int32": "i", "int64": "i", "[]byte": "y", "metav1.Time": "t",
    "metav1.ObjectMeta": "ObjectMeta", "metav1.LabelSelector": "LabelSelector", "resource.Quantity": "q",
    "intstr.IntOrString": "x", "types.UID": "s",
}  # fmt: skip
_FIELD = re.compile(r'^\t(\w+ +)?([\w.\[\]*]+) +`json:"([^"]*)".*protobuf:"\w+,(\d+),')


def main(module: str) -> None:
    """Write the table of the types in a module's directory."""
    text = (Path(module) / "core" / "v1" / "types.go").read_text()
    aliases = dict(re.findall(r"^type (\w+) ([\w.\[\]]+)$", text, re.MULTILINE))
    bodies = dict(re.findall(r"^type (\w+) struct \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    lines: dict[str, str] = {}
    wanted = [ROOT]
    while wanted:
        name = wanted.pop()
        if name in lines:
            continue
        fields: list[str] = []
        for line in bodies[name].splitlines():
            if found := _FIELD.match(line):
                spelled, message = _type(found[2], aliases)
                # An embedded struct is a message of its own here, and has no name in JSON.
                fields.append(f"{found[4]}:{found[3].partition(',')[0]}={spelled}")
                wanted += [message] if message in bodies else []
        lines[name] = " ".join([name, *sorted(fields, key=lambda field: int(field.partition(":")[0]))])
    TARGET.write_text("".join(f"{lines[name]}\n" for name in sorted(lines)))


def _type(go: str, aliases: dict[str, str]) -> tuple[str, str]:
    """How the table spells a Go type, and the message that it names, if any."""
    pointer = "*" if go.startswith("*") else ""
    go = go.removeprefix("*")
    while go in aliases:
        go = aliases[go]
    if go in _KNOWN:
        return _KNOWN[go] + pointer, ""
    if go.startswith("map["):
        spelled, message = _type(go.partition("]")[2], aliases)
        return f"{{{spelled}}}", message
    if go.startswith("[]"):
        spelled, message = _type(go[2:], aliases)
        return f"[{spelled}]", message
    return go + pointer, go


if __name__ == "__main__":
    main(sys.argv[1])
