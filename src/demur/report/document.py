"""One self-contained HTML document: template, style and script in one file that may load nothing.

The content security policy names the hashes of the inlined style and script, so that a piece of
markup from a prompt could not run or fetch anything even if it got past the escaping.
"""

import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from demur.report import wording
from demur.report.escaping import visible


def render_document(
    template: str,
    scripts: Sequence[str],
    context: Mapping[str, Any],
    *,
    styles: Sequence[str] = ("style.css",),
    pictures: bool = False,
) -> str:
    """Fill a template of this package.

    Args:
        template: File name below `templates/`.
        scripts: Script files below `templates/`, inlined one after the other.
        context: What the template shows; strings are escaped and made visible on output.
        styles: Style sheets below `templates/`, inlined one after the other.
        pictures: Whether the page may show pictures it holds itself as data URLs; none may be fetched either way.
    """
    style, script = ("\n".join(_asset(name) for name in names) for names in (styles, scripts))
    held = "img-src data:; " if pictures else ""
    policy = (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        f"{held}base-uri 'none'; form-action 'none'"
    )
    # The two assets are files of this package, never text of a user.
    assets = {"style": Markup(style), "script": Markup(script), "policy": policy}
    return _environment().get_template(template).render({**context, **assets})


def write_document(path: Path, html: str) -> None:
    """Write the file whole or not at all: readers see the old one until the new one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as file:
        temporary = Path(file.name)
        file.write(html.encode("utf-8", "replace"))
    try:
        temporary.chmod(0o666 & ~_umask())  # temporary files are private; a report is not
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _asset(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0].replace("\r\n", "\n")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("demur.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=wording.percent, bounds=wording.bounds, count=wording.count)
    return environment


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
