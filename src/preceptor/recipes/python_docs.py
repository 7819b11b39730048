"""The embedded default: the documentation inside the running Python, as documents and as questions with answers.

Read with ``ast`` from the standard library's own files; no module is imported but the one that holds the topics.
"""

import ast
import re
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data import topics

from preceptor.data.document import Document
from preceptor.data.examples import Example

LICENCE = "PSF-2.0"
_SKIPPED_PARTS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo"}
_SENTENCE_END = re.compile(r"(?<![.\s][A-Za-z])(?<!e\.g)(?<!i\.e)(?<!etc)[.!?](?=\s|$)")
MAX_ANSWER_WORDS = 30
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class _Module:
    name: str
    tree: ast.Module


def _modules() -> Iterator[_Module]:
    """Every module of the standard library that can be read, in the order of the names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if _SKIPPED_PARTS & set(parts) or not all(part.isidentifier() for part in parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            # A few files of the library are templates or samples of other encodings, and document nothing.
            continue
        yield _Module(".".join(parts).removesuffix(".__init__"), tree)


def documents() -> Iterator[Document]:
    """One document for each topic of the help system, each module and each class that is documented."""
    for name in sorted(topics.topics):
        yield _document(f"topic.{name}", topics.topics[name], f"Help on {name}")
    for module in _modules():
        if text := _module_text(module):
            yield _document(module.name, text, f"Module {module.name}")
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and (text := _class_text(module.name, node)):
                yield _document(f"{module.name}.{node.name}", text, f"Class {module.name}.{node.name}")


def _document(name: str, text: str, title: str) -> Document:
    return Document.new(text, f"python:{name}", licence=LICENCE, consent="by-licence", metadata={"title": title})


def _module_text(module: _Module) -> str:
    parts = [f"module {module.name}\n\n{doc}"] if (doc := ast.get_docstring(module.tree)) else []
    parts += [
        f"{module.name}.{_signature(node)}\n\n{doc}"
        for node in module.tree.body
        if isinstance(node, _Function) and (doc := ast.get_docstring(node))
    ]
    return "\n\n".join(parts)


def _class_text(module: str, node: ast.ClassDef) -> str:
    own = ast.get_docstring(node)
    methods = [
        f"{node.name}.{_signature(method)}\n\n{doc}"
        for method in node.body
        if isinstance(method, _Function) and (doc := ast.get_docstring(method))
    ]
    if not own and not methods:
        return ""
    heading = f"class {module}.{node.name}"
    return "\n\n".join([f"{heading}\n\n{own}" if own else heading, *methods])


def _signature(node: _Function) -> str:
    return f"{node.name}({ast.unparse(node.args)})"


def examples() -> Iterator[Example]:
    """Questions about the functions and classes of the library, with short answers.

    What does it do, and which module has it. What has the same answer is one group, wherever it stands, so that no
    answer of the training side is asked for on the other.
    """
    public = list(_public_objects())
    names = Counter(name.rpartition(".")[2] for name, _, _ in public)
    by_answer: dict[str, list[str]] = defaultdict(list)
    for name, _, sentence in public:
        by_answer[sentence].append(name)
    groups = _joined(public, by_answer)
    for name, is_class, sentence in public:
        module, _, short = name.rpartition(".")
        group = groups[name]
        question = f"What is `{name}`?" if is_class else f"What does `{name}` do?"
        yield Example(question, sentence, group, "what")
        if names[short] == 1:
            yield Example(f"Which module has `{short}`?", module, group, "where")


def _public_objects() -> Iterator[tuple[str, bool, str]]:
    """Qualified name, whether it is a class, and the first sentence of its documentation."""
    for module in _modules():
        if any(part.startswith("_") for part in module.name.split(".")):
            continue
        for node in module.tree.body:
            if isinstance(node, _DEFINITIONS) and not node.name.startswith("_"):
                sentence = first_sentence(ast.get_docstring(node) or "", node.name)
                if sentence:
                    yield f"{module.name}.{node.name}", isinstance(node, ast.ClassDef), sentence


def first_sentence(docstring: str, name: str) -> str:
    """The first sentence of a docstring on one line, or nothing where it is none or too long for an answer.

    A first paragraph that only repeats the signature is passed over.
    """
    for paragraph in re.split(r"\n\s*\n", docstring):
        text = " ".join(paragraph.split())
        if not text or re.match(rf"{re.escape(name)}\s*\(", text) or text.startswith((">>>", "- ", "* ")):
            continue
        end = _SENTENCE_END.search(text)
        sentence = text[: end.end()] if end else text
        if 3 <= len(sentence.split()) <= MAX_ANSWER_WORDS and not sentence.endswith(":"):
            return sentence
        return ""
    return ""


def _joined(public: list[tuple[str, bool, str]], by_answer: dict[str, list[str]]) -> dict[str, str]:
    """The group of each object: one name for all objects that share an answer or a short name."""
    parents = {name: name for name, _, _ in public}

    def root(name: str) -> str:
        while parents[name] != name:
            name = parents[name]
        return name

    shared: dict[str, list[str]] = defaultdict(list)
    for name, _, _ in public:
        shared[name.rpartition(".")[2]].append(name)
    for cluster in (*by_answer.values(), *shared.values()):
        first = root(cluster[0])
        for name in cluster[1:]:
            parents[root(name)] = first
    return {name: root(name) for name in parents}
