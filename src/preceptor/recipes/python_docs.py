"""The embedded default: the documentation inside the running Python, as documents and as questions with answers.

Read with ``ast`` from the standard library's own files; no module is imported but the one that holds the topics.
"""

import ast
import builtins
import os
import re
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from preceptor.core.errors import EmptyDataError
from preceptor.data.document import Document, Rejected
from preceptor.data.example_types import Conversation
from preceptor.data.sources import SourceConfig
from preceptor.data.spdx import normalise_licence

LICENCE = "PSF-2.0"
MAX_ANSWER_WORDS = 30
_MIN_ANSWER_WORDS = 3
_SKIPPED_FOLDERS = {
    *("site-packages", "dist-packages", "__pycache__", "lib-dynload"),
    *("test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo"),
}
_SENTENCE_END = re.compile(r"(?<![.\s][A-Za-z])(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)[.!?](?=\s|$)")
_NOT_PROSE = (">>>", "- ", "* ", "+-", "==", "--", "__", "@", ":", "$", "[", "(", "|")
# Besides what starts with an underscore: what a module is run by, which tells nothing of the module.
_PRIVATE = re.compile(r"_|(?:main|test|usage|demo\d?)$")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class _Object:
    """A function or class as its source says it is."""

    name: str
    signature: str
    doc: str
    is_class: bool = False
    methods: tuple["_Object", ...] = ()


@dataclass(frozen=True, slots=True)
class _Module:
    name: str
    doc: str
    objects: tuple[_Object, ...]

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))


def documents() -> Iterator[Document]:
    """One document for each topic of the help system, each module and each class that is documented.

    Raises:
        EmptyDataError: this Python was installed without the sources of its library.
    """
    topics = _topics()
    for name in sorted(topics):
        yield _document(f"topic.{name}", topics[name], f"Help on {name}")
    for module in _modules():
        if text := _module_text(module):
            yield _document(module.name, text, f"Module {module.name}")
        for each in module.objects:
            if each.is_class and (text := _class_text(module.name, each)):
                yield _document(f"{module.name}.{each.name}", text, f"Class {module.name}.{each.name}")


def read(source: SourceConfig) -> Iterator[Document | Rejected]:
    """The documents as a source of a recipe, under the licence and consent that it declares.

    Raises:
        EmptyDataError: this Python was installed without the sources of its library.
    """
    licence = normalise_licence(source.licence, "data.sources")
    for document in documents():
        yield replace(document, licence=licence, consent=source.consent, collection=source.label, origin=source.origin)


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        # Some distributions of Python leave the topics out; the docstrings are still there.
        return {}
    return dict(topics)


def _document(name: str, text: str, title: str) -> Document:
    return Document.new(text, f"python:{name}", licence=LICENCE, consent="by-licence", metadata={"title": title})


def _module_text(module: _Module) -> str:
    parts = [f"module {module.name}\n\n{module.doc}"] if module.doc else []
    parts += [f"{module.name}.{f.signature}\n\n{f.doc}" for f in module.objects if not f.is_class and f.doc]
    return "\n\n".join(parts)


def _class_text(module: str, each: _Object) -> str:
    methods = [f"{each.name}.{method.signature}\n\n{method.doc}" for method in each.methods if method.doc]
    if not each.doc and not methods:
        return ""
    heading = f"class {module}.{each.name}"
    return "\n\n".join([f"{heading}\n\n{each.doc}" if each.doc else heading, *methods])


@cache
def _modules() -> tuple[_Module, ...]:
    """Every module of the standard library that can be read, in the order of the names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in _python_files(root):
        parts = path.relative_to(root).with_suffix("").parts
        if not all(part.isidentifier() for part in parts):
            continue
        try:
            with warnings.catch_warnings():
                # Old docstrings hold escapes that newer Pythons warn of, which says nothing to our user.
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError, OSError):
            # A few files of the library are templates or samples of other encodings, and document nothing.
            continue
        name = ".".join(parts).removesuffix(".__init__")
        found.append(_Module(name, ast.get_docstring(tree) or "", tuple(_objects(tree.body))))
    if not found:
        raise EmptyDataError(
            "holds no source of the standard library, which the default data is made from",
            file=root,
            remedy="use a Python that has it (python.org, pyenv, uv or conda), or name your own files in data.sources",
        )
    return tuple(found)


def _python_files(root: Path) -> list[Path]:
    found = []
    for folder, folders, names in os.walk(root):
        # What is cut here is never entered: the packages of a user can be a hundred times the library.
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        found += [Path(folder) / name for name in names if name.endswith(".py")]
    return sorted(found)


def _objects(body: Iterable[ast.stmt]) -> Iterator[_Object]:
    """The functions and classes of a module, also those that it defines on a condition, each name once."""
    seen = set()
    for node in _statements(body):
        if node.name in seen:
            continue
        seen.add(node.name)
        doc = ast.get_docstring(node) or ""
        if isinstance(node, _Function):
            yield _Object(node.name, _signature(node), doc)
        else:
            methods = (method for method in _statements(node.body) if isinstance(method, _Function))
            documented = (_Object(m.name, _signature(m), own) for m in methods if (own := ast.get_docstring(m)))
            yield _Object(node.name, "", doc, is_class=True, methods=tuple(documented))


def _statements(body: Iterable[ast.stmt]) -> Iterator[_Function | ast.ClassDef]:
    for node in body:
        if isinstance(node, _Function | ast.ClassDef):
            yield node
        elif isinstance(node, ast.If):
            yield from _statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _statements([*node.body, *(s for h in node.handlers for s in h.body), *node.orelse])


def _signature(node: _Function) -> str:
    return f"{node.name}({ast.unparse(node.args)})"


@dataclass(frozen=True, slots=True)
class _Fact:
    """What one object is for: its qualified name and the first sentence of its documentation."""

    name: str
    sentence: str
    is_class: bool

    @property
    def short(self) -> str:
        return self.name.rpartition(".")[2]


def examples() -> Iterator[Conversation]:
    """Questions about the functions and classes of the library, with short answers.

    What does it do, and which module has it. What has the same answer or the same name is one group, wherever it
    stands, so that no answer of the training side is asked for on the other.
    """
    public = [module for module in _modules() if module.is_public]
    facts = [
        _Fact(f"{module.name}.{each.name}", sentence, each.is_class)
        for module in public
        for each in module.objects
        if not _PRIVATE.match(each.name) and (sentence := first_sentence(each.doc, each.name))
    ]
    # A name is asked for only where nothing else has it, be it documented or not.
    owners = Counter(each.name for module in public for each in module.objects)
    owners.update(dir(builtins))
    groups = _groups(facts)
    for fact in facts:
        question = f"What is `{fact.name}`?" if fact.is_class else f"What does `{fact.name}` do?"
        yield Conversation.of(question, fact.sentence, group=groups[fact.name], kind="what")
        if owners[fact.short] == 1:
            module = fact.name.rpartition(".")[0]
            asked = f"Which module has `{fact.short}`?"
            yield Conversation.of(asked, module, group=groups[fact.name], kind="where")


def first_sentence(docstring: str, name: str) -> str:
    """The first sentence of a docstring on one line, or nothing where it is none or too long for an answer.

    A signature in front is passed over, with its paragraph where nothing follows it.
    """
    signature = re.compile(rf"(?:\w+\.)*{re.escape(name)}\s?\((?:[^()]|\([^()]*\))*\)\s*(?:(?:->|--|:|-)\s*)?")
    for paragraph in re.split(r"\n\s*\n", docstring):
        text = " ".join(paragraph.split())
        if not text or text.startswith(_NOT_PROSE):
            continue
        if found := signature.match(text):
            text = text[found.end() :]
            if not text[:1].isupper() or len(text.split()) < _MIN_ANSWER_WORDS:
                continue
        end = _SENTENCE_END.search(text)
        # Lines without a full stop that follow each other are a list or a table, and read badly as one.
        is_prose = bool(end) or ("\n" not in paragraph.strip() and ": " not in text)
        sentence = text[: end.end()] if end else text
        return sentence if is_prose and _is_answer(sentence) else ""
    return ""


def _is_answer(sentence: str) -> bool:
    starts_well = sentence[:1].isalpha() or sentence[:1] in "`'\""
    ends_well = not sentence.endswith((":", ",", ";", "(", "e.g.", "i.e."))
    is_code = " -> " in sentence or len(re.findall(r"\w=[\w'\"]", sentence)) > 1
    num_words = len(sentence.split())
    return starts_well and ends_well and not is_code and _MIN_ANSWER_WORDS <= num_words <= MAX_ANSWER_WORDS


def _groups(facts: list[_Fact]) -> dict[str, str]:
    """The group of each object: one name for all objects that share a short name or an answer, but for its letters."""
    parents = {fact.name: fact.name for fact in facts}

    def root(name: str) -> str:
        while parents[name] != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    shared: dict[tuple[str, str], list[str]] = defaultdict(list)
    for fact in facts:
        shared["name", fact.short.lower()].append(fact.name)
        shared["answer", fact.sentence.lower().rstrip(".!? ")].append(fact.name)
    for cluster in shared.values():
        first = root(cluster[0])
        for name in cluster[1:]:
            parents[root(name)] = first
    return {name: root(name) for name in parents}
