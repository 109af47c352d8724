#!/usr/bin/env python3
"""What of the house can be counted: `house.py`, in the root of the tree. Exit code 1 if any of it is broken.

- No import circle between the source files of a crate. An edge goes from a file to the file that declares what it names
  with `use` or with a path from `crate`, `super` or `self`; a name that a room only hands on (`pub use`) is looked up where
  it is declared. A part may name what its own room's head declares (`impl Daemon` in a file of its own): that edge does not
  count, the way down does. Tests do not count.
- At most 12 source files directly in a folder.
- At most 600 lines in a file. Above 500 its first lines say why it is one noun: "One file, because ...".
- No doc comment of fewer than four words.
"""

import re
import subprocess
import sys
from pathlib import Path

FILES_MAX = 12
LINES_MAX = 600
LINES_TALKED_OF = 500
WORDS_MIN = 4

ITEM = re.compile(
    r"^(?:pub(?:\([^)]*\))? )?(?:const |unsafe |async |extern \"C\" )*"
    r"(?:fn|struct|enum|union|trait|type|const|static|macro_rules!|mod)\s+(?:mut )?(\w+)",
    re.M,
)
USE = re.compile(r"^[ \t]*(pub(?:\([^)]*\))? )?use\s+([^;]+);", re.M)
PATH = re.compile(r"(?<![\w:])(?:crate|super|self)(?:::\w+)+")


def shipped(text):
    """The text without comments and without what is compiled for tests alone."""
    text = re.sub(r"//[^\n]*", "", text)
    lines, out, i = text.split("\n"), [], 0
    while i < len(lines):
        if lines[i].strip().startswith("#[cfg(test)]"):
            indent = re.match(r"\s*", lines[i]).group()
            while i < len(lines) and not re.match(rf"{indent}(\}}|.*;$)", lines[i]):
                i += 1
        else:
            out.append(lines[i])
        i += 1
    return "\n".join(out)


def leaves(tree):
    """The paths that a use tree names, each a list of segments, with the name that it is known by."""
    tree, at = tree.strip(), 0

    def skip():
        nonlocal at
        while at < len(tree) and tree[at].isspace():
            at += 1

    def node(prefix):
        nonlocal at
        path = list(prefix)
        while True:
            skip()
            if tree[at] == "{":
                at += 1
                found = []
                while True:
                    skip()
                    if tree[at] == "}":
                        at += 1
                        return found
                    found += node(path)
                    skip()
                    if tree[at] == ",":
                        at += 1
            word = re.compile(r"\*|\w+").match(tree, at)
            path.append(word.group())
            at = word.end()
            skip()
            if tree.startswith("::", at):
                at += 2
                continue
            alias = re.compile(r"as\s+(\w+)").match(tree, at)
            if alias:
                at = alias.end()
            if path[-1] == "self":
                path.pop()
            return [(path, alias.group(1) if alias else path[-1])]

    return node([])


class Crate:
    def __init__(self, source):
        self.files = {}
        for file in sorted(source.rglob("*.rs")):
            parts = list(file.relative_to(source).with_suffix("").parts)
            if "tests" in parts or file.name == "main.rs":
                continue
            if parts[-1] in ("mod", "lib"):
                parts.pop()
            self.files[tuple(parts)] = (file, shipped(file.read_text()))
        self.items = {m: set(ITEM.findall(text)) for m, (_, text) in self.files.items()}
        self.handed_on = {m: {} for m in self.files}
        for module, (_, text) in self.files.items():
            for use in USE.finditer(text):
                for path, name in leaves(use.group(2)):
                    self.handed_on[module][name] = self.absolute(path, module)

    def absolute(self, path, module):
        """From the crate's root, or none: another crate's."""
        if path[0] == "crate":
            return tuple(path[1:])
        if path[0] in ("super", "self"):
            here, rest = list(module), list(path)
            if rest[0] == "self":
                rest.pop(0)
            while rest and rest[0] == "super":
                if here:
                    here.pop()
                rest.pop(0)
            return tuple(here + rest)
        if module + (path[0],) in self.files:
            return module + tuple(path)
        return None

    def declares(self, path, depth=0):
        """The file that declares what an absolute path names."""
        if path is None or depth > 16:
            return None
        for length in range(len(path), -1, -1):
            module = path[:length]
            if module not in self.files:
                continue
            if length == len(path):
                return module
            name = path[length]
            if name in self.items[module]:
                return module
            if name in self.handed_on[module]:
                target = self.handed_on[module][name]
                return self.declares(target and target + path[length + 1 :], depth + 1)
            return module
        return None

    def edges(self):
        found = {}
        for module, (_, text) in self.files.items():
            named = set()
            for use in USE.finditer(text):
                if use.group(1):
                    continue
                for path, _ in leaves(use.group(2)):
                    named.add(self.absolute(path, module))
            for path in PATH.findall(USE.sub("", text)):
                named.add(self.absolute(path.split("::"), module))
            named = {self.declares(path) for path in named}
            found[module] = {to for to in named if to is not None and to != module and to != module[: len(to)]}
        return found


def circles(edges):
    """The strongly connected parts of more than one file, after Tarjan."""
    index, low, stack, on, found = {}, {}, [], set(), []

    def visit(v):
        index[v] = low[v] = len(index)
        stack.append(v)
        on.add(v)
        for w in edges[v]:
            if w not in index:
                visit(w)
                low[v] = min(low[v], low[w])
            elif w in on:
                low[v] = min(low[v], index[w])
        if low[v] == index[v]:
            part = []
            while True:
                w = stack.pop()
                on.discard(w)
                part.append(w)
                if w == v:
                    break
            if len(part) > 1:
                found.append(sorted(part))

    sys.setrecursionlimit(10_000)
    for v in edges:
        if v not in index:
            visit(v)
    return found


def tracked():
    """The Rust files of the tree."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.rs"], capture_output=True, text=True, check=True)
    return [Path(line) for line in listed.stdout.splitlines() if Path(line).is_file()]


def doc_comments(text):
    """Each as its first line's number and its words."""
    first, words = 0, []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        doc = re.match(r"\s*//[/!]\s?(.*)", line)
        if doc:
            first = first or number
            words += doc.group(1).split()
        elif first:
            yield first, words
            first, words = 0, []


def main():
    broken = []
    for folder in ["firmware-config", "model", "daemon"]:
        crate = Crate(Path(folder) / "src")
        edges = crate.edges()
        for part in circles(edges):
            broken.append(f"{folder}: a circle of {len(part)} files")
            for module in part:
                inside = sorted(crate.files[to][0].as_posix() for to in edges[module] if to in part)
                broken.append(f"  {crate.files[module][0].as_posix()} imports {', '.join(inside)}")
    files, folders = tracked(), {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
        text = file.read_text()
        lines = text.count("\n")
        if lines > LINES_MAX:
            broken.append(f"{file}: {lines} lines, at most {LINES_MAX}")
        elif lines > LINES_TALKED_OF and "One file, because" not in " ".join(text.split("\n")[:20]):
            broken.append(f"{file}: {lines} lines, and its head does not say \"One file, because\"")
        for number, words in doc_comments(text):
            if len(words) < WORDS_MIN:
                broken.append(f"{file}:{number}: a doc comment of {len(words)} words: {' '.join(words)}")
    for folder, inside in folders.items():
        if len(inside) > FILES_MAX:
            broken.append(f"{folder}: {len(inside)} source files, at most {FILES_MAX}")
    print("\n".join(broken) or "the house stands: no circle, no full folder, no long file, no short word")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
