"""What a tree of configuration dataclasses accepts: as a list of fields, as JSON Schema and in words."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from preceptor.core.canonical import plain

TAGS = ("kind", "family")
"""The fields by which the members of a union are told apart."""


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One setting: where it is, what it accepts, what it is when left out, and what it is for."""

    path: str
    """The dotted path from the root."""
    type: str
    """What it accepts, in words."""
    default: object
    """What it is when left out, as plain JSON; None where it is required."""
    help: str
    """What it is for."""
    required: bool = False
    """Whether it must be given."""
    when: str = ""
    """For a setting of one variant only: the `kind` it belongs to, as `path = 'name'`."""


def is_config(annotation: object) -> typing.TypeGuard[type]:
    """Whether an annotation is a dataclass type."""
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def unwrap(annotation: object) -> object:
    """The annotation without Annotated and NewType round it."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        else:
            return annotation


def members(annotation: object) -> tuple[object, ...]:
    """The members of a union, or the annotation alone."""
    annotation = unwrap(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(unwrap(member) for member in typing.get_args(annotation))
    return (annotation,)


def item_types(annotation: object) -> tuple[object, ...] | object | None:
    """For a fixed tuple the types of its items, for any other sequence the one type of all, else None."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        return args
    return args[0] if origin in (tuple, list, Sequence) else None


def value_type(annotation: object) -> object | None:
    """The type of a mapping's values, or None where the annotation is no mapping."""
    return typing.get_args(annotation)[1] if typing.get_origin(annotation) in (dict, Mapping) else None


@cache
def annotations(cls: type) -> Mapping[str, object]:
    """The resolved annotation of every field that can be given, in order."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def tag_name(cls: type) -> str:
    """The field whose one possible value names a variant.

    Raises:
        TypeError: the class has no such field as `kind: Literal["name"]`, so a union cannot tell it from the others.
    """
    for name in TAGS:
        if len(typing.get_args(unwrap(annotations(cls).get(name)))) == 1:
            return name
    raise TypeError(f'{cls.__name__} is one of several variants and needs a field kind: Literal["name"]')


def tag_of(cls: type) -> str:
    """The name of a variant: the one value its tag can have.

    Raises:
        TypeError: the class has no tag.
    """
    return str(typing.get_args(unwrap(annotations(cls)[tag_name(cls)]))[0])


def default_of(field: "dataclasses.Field[object]", base: object = None) -> object:
    """What a field is when left out: the value in `base`, else the class's default, else MISSING."""
    if base is not None:
        return getattr(base, field.name)
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def in_words(annotation: object) -> str:
    """What an annotation accepts, as a noun with its article: `an integer`, `'a' or 'b'`."""
    simple = {bool: "true or false", int: "an integer", float: "a number", str: "a string", Path: "a path"}
    parts = []
    for member in members(annotation):
        if member in simple:
            parts.append(simple[member])
        elif member is types.NoneType:
            parts.append("none")
        elif typing.get_origin(member) is typing.Literal:
            parts.extend(repr(value) for value in typing.get_args(member))
        elif value_type(member) is not None or is_config(member):
            parts.append("a table")
        elif item_types(member) is not None:
            parts.append("a list")
        else:
            parts.append("anything")
    unique = list(dict.fromkeys(parts))
    return unique[0] if len(unique) == 1 else ", ".join(unique[:-1]) + " or " + unique[-1]


@cache
def attribute_docstrings(cls: type) -> Mapping[str, str]:
    """The string literal under each field, also of the fields a class inherits."""
    docstrings: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        except (OSError, TypeError, SyntaxError):
            continue  # no source to read: the fields stay, without help
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for statement, below in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                docstrings[statement.target.id] = inspect.cleandoc(below.value.value)
    return docstrings


def summary(cls: type) -> str:
    """The first line of a class's own docstring."""
    written = inspect.cleandoc(cls.__doc__ or "")
    return "" if written.startswith(f"{cls.__name__}(") else written.partition("\n")[0]


def describe(cls: type) -> list[Field]:
    """Every setting in the tree, in the order of declaration."""
    return list(_fields(cls, "", None, ""))


def _fields(cls: type, prefix: str, base: object, when: str) -> Iterator[Field]:
    docstrings = attribute_docstrings(cls)
    declared = {field.name: field for field in dataclasses.fields(cls)}
    for name, annotation in annotations(cls).items():
        path = f"{prefix}.{name}" if prefix else name
        default = default_of(declared[name], base)
        variants = [member for member in members(annotation) if is_config(member)]
        if len(variants) > 1:
            tag, names = tag_name(variants[0]), [tag_of(variant) for variant in variants]
            chosen = getattr(default, tag, None)
            words = " or ".join(map(repr, names))
            yield Field(f"{path}.{tag}", words, chosen, docstrings.get(name, ""), chosen is None, when)
        for variant in variants:
            of_variant = default if type(default) is variant else None
            only_when = f"{path}.{tag} = {tag_of(variant)!r}" if len(variants) > 1 else when
            for field in _fields(variant, path, of_variant, only_when):
                if len(variants) == 1 or field.path != f"{path}.{tag}":
                    yield field
        if not variants:
            required = default is dataclasses.MISSING
            shown = None if required else plain(default, where=path)
            yield Field(path, in_words(annotation), shown, docstrings.get(name, ""), required, when)


def json_schema(cls: type) -> dict[str, object]:
    """The tree as JSON Schema (draft 2020-12), with attribute docstrings as descriptions."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_object_schema(cls, None)}


def _object_schema(cls: type, base: object) -> dict[str, object]:
    docstrings = attribute_docstrings(cls)
    declared = {field.name: field for field in dataclasses.fields(cls)}
    properties: dict[str, object] = {}
    required: list[str] = []
    for name, annotation in annotations(cls).items():
        default = default_of(declared[name], base)
        entry = _type_schema(annotation, default)
        if docstrings.get(name):
            entry["description"] = docstrings[name]
        if default is dataclasses.MISSING:
            required.append(name)
        else:
            entry["default"] = plain(default, where=name)
        properties[name] = entry
    schema: dict[str, object] = {"title": cls.__name__, "type": "object"}
    if summary(cls):
        schema["description"] = summary(cls)
    schema |= {"properties": properties, "additionalProperties": False}
    return schema | {"required": required} if required else schema


def _type_schema(annotation: object, default: object) -> dict[str, object]:
    alternatives = [_member_schema(member, default) for member in members(annotation)]
    return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}


def _member_schema(member: object, default: object) -> dict[str, object]:
    simple = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string", types.NoneType: "null"}
    if member in simple:
        return {"type": simple[member]}
    if typing.get_origin(member) is typing.Literal:
        return {"enum": list(typing.get_args(member))}
    if is_config(member):
        return _object_schema(member, default if type(default) is member else None)
    if (of_values := value_type(member)) is not None:
        return {"type": "object", "additionalProperties": _type_schema(of_values, None)}
    items = item_types(member)
    if isinstance(items, tuple):
        fixed = [_type_schema(item, None) for item in items]
        return {"type": "array", "prefixItems": fixed, "minItems": len(fixed), "maxItems": len(fixed)}
    return {} if items is None else {"type": "array", "items": _type_schema(items, None)}
