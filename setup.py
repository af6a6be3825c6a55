"""What pyproject.toml cannot say: a package index shows README.md far from the repository, where relative links lead nowhere.

With a `Source` address in [project.urls] they become absolute; without one a link becomes its text and a picture is left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup
from setuptools.command.egg_info import egg_info

HERE = Path(__file__).parent
RELATIVE = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?!https?://)(?P<target>[^)]+)\)")


def for_an_index(markdown: str, source: str = "") -> str:
    """`markdown` without relative links.

    Args:
        source: address of the repository, for absolute ones.
    """

    def absolute(link: re.Match[str]) -> str:
        if source and not link["target"].startswith("#"):
            return f"{link['picture']}[{link['text']}]({source}/{'raw' if link['picture'] else 'blob'}/main/{link['target']})"
        return "" if link["picture"] else link["text"]

    return RELATIVE.sub(absolute, markdown)


class WithIndexReadme(egg_info):
    """Puts that text into the metadata."""

    def finalize_options(self) -> None:
        super().finalize_options()
        source = re.search(r'^Source = "(.+)"', (HERE / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
        readme = (HERE / "README.md").read_text("utf-8")
        self.distribution.metadata.long_description = for_an_index(readme, source[1].rstrip("/") if source else "")


if __name__ == "__main__":
    setup(cmdclass={"egg_info": WithIndexReadme})
