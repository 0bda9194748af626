"""Hooks of mkdocs.yml: links out of docs/ lead somewhere on the site too, and formulas are MathML."""

import re
from html import unescape
from os.path import relpath
from pathlib import Path, PurePosixPath
from posixpath import normpath

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"\[([^\]]*)\]\((\.\./[^)#\s]+)\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links to files outside docs/ leading to copies; those to folders become plain text."""
    folder = PurePosixPath(page.file.src_uri).parent

    def on_the_site(link: re.Match[str]) -> str:
        path = normpath(folder / link[2])
        source = Path(config.docs_dir, path)
        if not path.startswith("../") or not source.exists():
            return link[0]  # within docs/, or broken: mkdocs reports it
        if source.is_dir():
            return link[1]
        copy = path.removeprefix("../")
        if files.get_file_from_path(copy) is None:
            files.append(File.generated(config, copy, abs_src_path=str(source)))
        return f"[{link[1]}]({relpath(copy, folder)})"

    return LINK.sub(on_the_site, markdown)


def on_page_content(html: str, **_: object) -> str:
    """The page with MathML in place of TeX: every current browser shows it without a script."""

    def mathml(formula: re.Match[str]) -> str:
        return convert(unescape(formula[2]), display="block" if formula[1] == "div" else "inline")

    return FORMULA.sub(mathml, html)
