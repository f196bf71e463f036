"""A report as one HTML file that needs nothing beside itself."""

import base64
import hashlib
import re
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from clbench.errors import SettingError
from clbench.reports.figures.looks import COLOURS, GRID, INK, PAPER
from clbench.reports.model import Figure, Report, Table

_DARK_PAPER = (0x15, 0x18, 0x1C)
_CONTRAST = 4.5
_METHOD_COLOURS = tuple(colour.lower() for colour in COLOURS)
_SWAPPED = {INK: "--ink", GRID: "--line", PAPER: "--paper"}


def render_html(report: Report, templates: Path | None = None) -> bytes:
    """The report as HTML in UTF-8.

    Args:
        report: the report.
        templates: a folder whose `report.html.j2`, `style.css` or `script.js` replace ours.

    Raises:
        SettingError: if a template of the user's own cannot be read or filled in.
    """
    sources = {name: _source(name, templates) for name in ("report.html.j2", "style.css", "script.js")}
    script = sources["script.js"]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["inline_svg"] = _inline_svg
    environment.tests["table"] = lambda item: isinstance(item, Table)
    try:
        text = environment.from_string(sources["report.html.j2"]).render(
            report=report,
            style=Markup(sources["style.css"]),
            script=Markup(script),
            # The page runs this one script and no other, whatever a name may smuggle in.
            script_digest="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            colours=Markup(_dark_colours(report)),
        )
    except jinja2.TemplateError as error:
        raise SettingError(f"the template report.html.j2 cannot be filled in ({error})") from None
    return text.encode()


def _source(name: str, templates: Path | None) -> str:
    path = resources.files("clbench.reports") / "templates" / name
    if templates is not None and (templates / name).is_file():
        path = templates / name
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the template {path} cannot be read ({error})") from None


def _inline_svg(figure: Figure, narrow: bool = False) -> Markup:
    """The drawing as an element of the page, with its description; namespaces are the page's own."""
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", figure.narrow if narrow else figure.svg)
    # Only the drawings' own ink, paper and method colours: the colour maps mean the same in the dark.
    svg = re.sub(r"(?<=: )#[0-9a-fA-F]{6}(?=[;\"])", lambda found: _as_variable(found.group()), svg)
    label = str(escape(figure.alt))
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def _as_variable(colour: str) -> str:
    """A colour that the dark page swaps as a variable, any other as it is."""
    if colour.lower() in _SWAPPED:
        return f"var({_SWAPPED[colour.lower()]})"
    if colour.lower() in _METHOD_COLOURS:
        return f"var({_variable(colour)}, {colour.lower()})"
    return colour


def _variable(colour: str) -> str:
    return f"--c-{colour.lower().lstrip('#')}"


def _dark_colours(report: Report) -> str:
    """For the dark page, the colours of the methods drawn, with as much white as they need to be seen."""
    drawn = "".join(item.svg for item in report.items if isinstance(item, Figure)).lower()
    rules = " ".join(f"{_variable(colour)}: {_on_dark(colour)};" for colour in _METHOD_COLOURS if colour in drawn)
    return f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {rules} }} }}"


def _on_dark(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    mixed = (red, green, blue)
    for white in range(0, 101, 5):
        mixed = tuple(round(part + (255 - part) * white / 100) for part in (red, green, blue))  # type: ignore[assignment]
        if (_luminance(mixed) + 0.05) / (_luminance(_DARK_PAPER) + 0.05) >= _CONTRAST:
            break
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _luminance(colour: tuple[int, int, int]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
