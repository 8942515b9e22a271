"""docs/protocol.md as a program reads it: its frames become protobuf messages, its errors,
limits and rules become tables.

The messages are built from the page's tables and not from the schema file, so that a wrong
number, type or name there shows: the server does not understand it.
"""

import re
from pathlib import Path
from types import SimpleNamespace

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")

PACKAGE = "page"
Field = descriptor_pb2.FieldDescriptorProto


def generated(name):
    """The text between the markers of a generated part."""
    return TEXT.split(f"<!-- generated: {name} -->", 1)[1].split(f"<!-- end: {name} -->", 1)[0]


def rows(text):
    """The cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def enums(text):
    """Lines such as ``Lane: `LANE_EVENTS` 0, `LANE_BULK` 1.``"""
    for name, values in re.findall(r"^(\w+): (`[A-Z_]+` \d.*)$", text, re.MULTILINE):
        yield name, re.findall(r"`([A-Z_]+)` (\d+)", values)


def add_enums(holder, prefix, text):
    """Their types by name."""
    types = {}
    for name, values in enums(text):
        enum = holder.add(name=name)
        for value, number in values:
            enum.value.add(name=value, number=int(number))
        types[name] = f"{prefix}.{name}"
    return types


def add_field(message, name, number, kind, note, enum_types):
    """A row of a message's table."""
    field = message.field.add(name=name, json_name=name, number=int(number))
    scalar = kind.removeprefix("list of ")
    field.label = Field.LABEL_OPTIONAL if scalar == kind else Field.LABEL_REPEATED
    link = re.fullmatch(r"\[(\w+)\]\(#\w+\)", scalar)
    if link:
        field.type, field.type_name = Field.TYPE_MESSAGE, f".{PACKAGE}.{link[1]}"
    elif scalar in enum_types:
        field.type, field.type_name = Field.TYPE_ENUM, enum_types[scalar]
    else:
        field.type = getattr(Field, f"TYPE_{scalar.upper()}")
    one_of = re.match(r"\((\w+): one of these\)", note)
    if one_of:
        names = [decl.name for decl in message.oneof_decl]
        if one_of[1] not in names:
            names.append(one_of[1])
            message.oneof_decl.add(name=one_of[1])
        field.oneof_index = names.index(one_of[1])
    elif note.startswith("(optional)"):
        field.proto3_optional = True
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{name}")


def messages():
    """A class for each message of the page, by name."""
    file = descriptor_pb2.FileDescriptorProto(name="page", package=PACKAGE, syntax="proto3")
    head, *sections = re.split(r"^#### ", generated("frames"), flags=re.MULTILINE)
    sections = dict(section.split("\n", 1) for section in sections)
    top = add_enums(file.enum_type, f".{PACKAGE}", sections.pop("Enums"))
    for name, text in sections.items():
        message = file.message_type.add(name=name)
        own = add_enums(message.enum_type, f".{PACKAGE}.{name}", text)
        for field, number, kind, note in rows(text):
            add_field(message, field.strip("`"), number, kind, note, {**top, **own})
    frame = file.message_type.add(name="Frame")
    add_field(frame, "req", 1, "uint32", "", {})
    for field, number, kind in rows(head):
        add_field(frame, field.strip("`"), number, kind, "(body: one of these)", {})
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return SimpleNamespace(
        **{
            message.name: message_factory.GetMessageClass(find(f"{PACKAGE}.{message.name}"))
            for message in file.message_type
        }
    )


MESSAGES = messages()
Frame = MESSAGES.Frame
Kind = MESSAGES.GroupChange.Kind
MEMBER, ADMIN, OWNER = 1, 2, 3  # Role

# Name → (code, whether the same request can succeed later).
ERRORS = {row[1]: (int(row[0]), row[2] == "yes") for row in rows(generated("errors"))}
RETRYABLE = dict(ERRORS.values())
NAMES = {code: name for name, (code, _) in ERRORS.items()}

# The numbers of the rules.
RULES = [f"R{number}" for number in re.findall(r"^- \*\*R(\d+)\*\*", TEXT, re.MULTILINE)]

# (holder, field of WELCOME) → default.
LIMITS = {
    tuple(name.split(".")) if "." in name else ("limits", name): int(row[1])
    for row in rows(generated("limits"))
    for name in re.findall(r"`([a-zA-Z.]+)`", row[2])
}
