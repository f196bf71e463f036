"""What to cite: the BibTeX entries, in `references.bib`, of the methods and data sets that a report's runs used."""

import re
from collections.abc import Iterable, Sequence
from importlib import resources

from clbench.methods.table import entry_of
from clbench.reports.analysis.groups import Group
from clbench.reports.formatting import plain
from clbench.reports.model import Cell, Column, Table

_OF_DATA = {
    "mnist": ("lecun1998mnist",),
    "fashion-mnist": ("xiao2017fashionmnist",),
    "kmnist": ("clanuwat2018kmnist",),
    "cifar10": ("krizhevsky2009cifar",),
    "cifar100": ("krizhevsky2009cifar",),
    "tiny-imagenet": ("le2015tinyimagenet",),
    "digits": ("alpaydin1998digits", "pedregosa2011scikitlearn"),
}


def entries() -> dict[str, str]:
    """Every entry of `references.bib` by its key, as it stands there."""
    text = (resources.files("clbench.reports") / "references.bib").read_text(encoding="utf-8")
    found = re.findall(r"^@\w+\{([^,]+),.*?^\}$", text, flags=re.MULTILINE | re.DOTALL)
    bodies = re.findall(r"^@\w+\{[^,]+,.*?^\}$", text, flags=re.MULTILINE | re.DOTALL)
    return dict(zip(found, bodies, strict=True))


def citations(groups: Sequence[Group]) -> list[tuple[str, tuple[str, ...]]]:
    """Each method and data set that was used, with the keys of what to cite; none where nothing is known."""
    # A variant such as psp:rotation is its method's; what a package of its own brings is not known here.
    methods = sorted({group.method for group in groups})
    data = sorted({plain((group.config.get("data") or {}).get("source")) for group in groups})
    return [
        *((name, entry.cites if (entry := entry_of(name)) else ()) for name in methods),
        *((name, tuple(key for part in name.split("+") for key in _OF_DATA.get(part, ()))) for name in data),
    ]


def bibliography(groups: Sequence[Group]) -> str:
    """The BibTeX of what the groups used, every entry once, in the order of `references.bib`."""
    wanted = {key for _, keys in citations(groups) for key in keys}
    return "\n\n".join(entry for key, entry in entries().items() if key in wanted) + "\n" if wanted else ""


def citation_table(groups: Sequence[Group]) -> Table:
    """What to cite, for each method and data set."""
    return Table(
        "citations",
        "What to cite; the entries are in references.bib, in the folder with this report's tables and figures",
        (
            Column("Method or data", "text", 1),
            Column("BibTeX key", "code", 2.2),
            Column("Title and year", "text", 3),
        ),
        tuple(
            (Cell(name), Cell(", ".join(keys) or "–"), Cell("; ".join(_titles(keys)) or "no reference is recorded"))
            for name, keys in citations(groups)
        ),
    )


def _titles(keys: Iterable[str]) -> Iterable[str]:
    known = entries()
    for key in keys:
        # A field may go over several lines.
        fields = dict(re.findall(r"^  (\w+) = \{(.*?)\},$", known[key], flags=re.MULTILINE | re.DOTALL))
        title = " ".join(re.sub(r"[{}]", "", fields["title"]).split())
        yield f"{title.replace(chr(92) + '&', '&')}, {fields['year']}"
