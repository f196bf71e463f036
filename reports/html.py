"""A report as one HTML file that needs nothing beside itself."""

import re
from importlib import resources

import jinja2
from markupsafe import Markup, escape

from clbench.reports.model import Figure, Report, Table


def render_html(report: Report) -> bytes:
    """The report as HTML in UTF-8."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["inline_svg"] = _inline_svg
    environment.tests["table"] = lambda item: isinstance(item, Table)
    source = (resources.files("clbench.reports") / "templates" / "report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(report=report).encode()


def _inline_svg(figure: Figure) -> Markup:
    """The drawing as an element of the page, with its description; namespaces are the page's own."""
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", figure.svg)
    label = str(escape(figure.alt))
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))
