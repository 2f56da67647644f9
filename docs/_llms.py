"""Writes the built site once more as plain text, for language models: `llms.txt`, `llms-full.txt`, and each page beside its HTML.

As https://llmstxt.org proposes. Nothing is imported to be described: what a page takes from docstrings is read from the source, as the
site's own generator does, so that no extra has to be installed.
"""

from __future__ import annotations

import ast
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parents[1]
NAV = re.compile(r"^(?P<indent> *)- (?:(?P<title>[^:\n]+): *)?(?P<path>[\w/-]+\.md)?$", re.MULTILINE)
AUTODOC = re.compile(r"^::: (?P<name>[\w.]+)\n(?P<options>(?:(?: {4}.*)?\n)*)", re.MULTILINE)
ENTRY = re.compile(r"^- \[[^\]]+\]\((?P<path>[\w-]+\.md)\)(?P<note>.*(?:\n  .+)*)", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?P<path>[\w./-]+)\.md(?=[#)])")
FENCED = re.compile(r"(```.*?^ *```$)", re.DOTALL | re.MULTILINE)
NOT_RUN = re.compile(r"^ *<!-- .*? -->\n", re.MULTILINE)


@frozen(kw_only=True)
class Page:
    """One page of the site."""

    section: str
    """The part of the menu that it stands in; empty for those before the first."""
    path: str
    """Below `docs`."""
    text: str
    """Its Markdown, with all that is taken from docstrings."""

    @property
    def url(self) -> str:
        """Where its text is, seen from the site's root: the page's address with `.md` after it."""
        return f"{self.path.removesuffix('.md')}.html.md"

    @property
    def title(self) -> str:
        """Its heading."""
        return self.text.partition("\n")[0].removeprefix("# ")

    @property
    def note(self) -> str:
        """The first sentence below the heading; nothing where something else stands there."""
        first = next((part for part in self.text.split("\n\n")[1:] if part.strip()), "")
        return "" if first.startswith(("#", "```", "-", "|")) else re.split(r"(?<=[.:?!]) ", _plain(first))[0].rstrip(".:")

    def linked_from(self, place: str) -> str:
        """Its text with links to the texts of other pages, for a file in that folder of the site."""
        folder = posixpath.dirname(self.path)

        def moved(link: re.Match[str]) -> str:
            return posixpath.relpath(posixpath.join(folder, f"{link['path']}.html.md"), place or ".")

        return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in FENCED.split(self.text))


def pages(docs: Path) -> list[Page]:
    """All pages of the menu, in its order."""
    found, section = list[Page](), ""
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    for entry in NAV.finditer(menu):
        if entry["path"] is None:
            section = entry["title"]
            continue
        text = NOT_RUN.sub("", (docs / entry["path"]).read_text(encoding="utf-8"))
        text = AUTODOC.sub(lambda match: f"{described(match['name'], inherited='inherited_members' in match['options'])}\n", text)
        found.append(Page(section=section if len(entry["indent"]) > 2 else "", path=entry["path"], text=text))  # noqa: PLR2004  YAML's own
    return found


def index(site: list[Page]) -> str:
    """`llms.txt`: what this is, and a line for each page."""
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    name, description = (re.search(rf"^{key}: (.+)$", settings, re.MULTILINE) for key in ("site_name", "site_description"))
    assert name and description  # noqa: S101, PT018  it is our own file
    lines = [f"# {name[1]}", "", f"> {description[1]}", ""]
    lines += ["All pages in one file: [llms-full.txt](llms-full.txt). Every example on them is run by the tests.", ""]
    said = {posixpath.join(posixpath.dirname(page.path), path): note for page in site for path, note in _entries(page)}
    for section in dict.fromkeys(page.section for page in site):
        lines += [f"## {section or 'Start here'}", ""]
        for page in (page for page in site if page.section == section):
            note = said.get(page.path) or page.note
            lines.append(f"- [{page.title}]({page.url}){f': {note}' if note else ''}")
        lines.append("")
    return "\n".join(lines)


def everything(site: list[Page]) -> str:
    """`llms-full.txt`: all pages, one after the other."""
    return "\n\n".join(f"<!-- {page.path.removesuffix('.md')}.html -->\n\n{page.linked_from('').strip()}" for page in site) + "\n"


def _entries(page: Page) -> Iterator[tuple[str, str]]:
    """What the front page of a section says of its pages."""
    if posixpath.basename(page.path) == "index.md":
        for entry in ENTRY.finditer(page.text):
            yield entry["path"], _plain(entry["note"]).strip(" :,.")


def _plain(text: str) -> str:
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", " ".join(text.split()))


def described(name: str, *, inherited: bool = False) -> str:
    """What the source says of a class, a function, or all public classes of a module."""
    node = _found(name)
    if isinstance(node, ast.Module):
        return "\n".join(_definition(part) for part in node.body if isinstance(part, ast.ClassDef) and not part.name.startswith("_"))
    if inherited and isinstance(node, ast.ClassDef):
        own = {part.name for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}
        above = (_found(f"{name.rpartition('.')[0]}.{base.id}") for base in node.bases if isinstance(base, ast.Name))
        node.body += [part for base in above for part in base.body if getattr(part, "name", "") not in own]
    return _definition(node)


def _found(name: str) -> ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef:
    path = ROOT.joinpath(*name.split("."))
    source = next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.exists()), None)
    if source:
        return ast.parse(source.read_text(encoding="utf-8"))
    home, _, own = name.rpartition(".")
    for node in ast.walk(_found(home)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == own:
            return node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == own:
                    return _found(f"{node.module}.{alias.name}")
    msg = f"{name} is not to be found in the source"
    raise LookupError(msg)


def _definition(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    made = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    head = f"class {node.name}{_taken(made, own=True) if made else ''}" if isinstance(node, ast.ClassDef) else _signature(node, own=False)
    parts = [f"### {node.name}\n", f"```text\n{head}\n```\n", f"{ast.get_docstring(node) or ''}\n"]
    return "\n".join([*parts, *(_members(node) if isinstance(node, ast.ClassDef) else ())])


def _members(node: ast.ClassDef) -> Iterator[str]:
    for place, part in enumerate(node.body):
        following = node.body[place + 1] if place + 1 < len(node.body) else None
        match part:
            case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_"):
                yield f"- `{name}: {ast.unparse(part.annotation)}`{_told(following)}"
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)) if not name.startswith("_"):
                yield f"- `{name} = {value!r}`{_told(following)}"
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if not name.startswith("_") and ast.get_docstring(part):
                yield f"\n#### {node.name}.{name}\n\n```text\n{_signature(part, own=True)}\n```\n\n{ast.get_docstring(part)}\n"
            case _:
                pass


def _told(node: ast.stmt | None) -> str:
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return f": {' '.join(text.split())}"
        case _:
            return ""


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, *, own: bool) -> str:
    if any(isinstance(mark, ast.Name) and "property" in mark.id for mark in node.decorator_list):
        return f"{node.name}: {ast.unparse(node.returns) if node.returns else 'Any'}"
    kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return f"{kind} {node.name}{_taken(node, own=own)}"


def _taken(node: ast.FunctionDef | ast.AsyncFunctionDef, *, own: bool) -> str:
    taken = ast.unparse(node.args)
    if own:
        taken = re.sub(r"^(?:self|cls)(?:, )?", "", taken)
    gives = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    return f"({taken}){gives}"


def write(site: Path, docs: Path) -> None:
    """Put the files where the built pages are; `docs` is what they were built from.

    Raises:
        FileNotFoundError: a page of the menu was not built.
    """
    known = pages(docs)
    for page in known:
        built = site / page.url
        if not built.with_suffix("").exists():
            raise FileNotFoundError(built.with_suffix(""))
        built.write_text(page.linked_from(posixpath.dirname(page.path)), encoding="utf-8")
    (site / "llms.txt").write_text(index(known), encoding="utf-8")
    (site / "llms-full.txt").write_text(everything(known), encoding="utf-8")
    print(f"wrote {site.name}/llms.txt, llms-full.txt and {len(known)} pages as text")


if __name__ == "__main__":
    write(Path(sys.argv[1]), ROOT / "docs")
