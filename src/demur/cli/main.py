"""The `demur` command: one file for each command, no work at import time."""

import errno
import sys

import typer

from demur.cli.ability import ability_command
from demur.cli.audit import audit_command
from demur.cli.calibrate import calibrate_command, policy_app
from demur.cli.compare import compare_command
from demur.cli.construct import construct_command
from demur.cli.cultures import cultures_app
from demur.cli.doctor import doctor_command
from demur.cli.explain import explain_app
from demur.cli.export import export_command
from demur.cli.guard import guard_app
from demur.cli.images import images_app
from demur.cli.judges import judges_app
from demur.cli.models import models_command
from demur.cli.predict import predict_app
from demur.cli.scan import scan_command
from demur.cli.serve import serve_command
from demur.cli.signal import signal_command
from demur.cli.steer import steer_command
from demur.cli.stress import stress_app
from demur.cli.synthesis import add_synthesis, suites_app
from demur.cli.train import train_app
from demur.core.errors import BackendError, UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command("audit")(audit_command)
app.command("compare")(compare_command)
app.add_typer(suites_app, name="suites")
app.command("scan")(scan_command)
app.add_typer(judges_app, name="judges")
app.add_typer(predict_app, name="predict")
app.add_typer(train_app, name="train")
add_synthesis(images_app)
app.add_typer(images_app, name="images")
app.add_typer(cultures_app, name="cultures")
app.add_typer(stress_app, name="stress")
app.command("construct")(construct_command)
app.command("ability")(ability_command)
app.command("signal")(signal_command)
app.command("calibrate")(calibrate_command)
app.add_typer(policy_app, name="policy")
app.add_typer(explain_app, name="explain")
app.add_typer(guard_app, name="guard")
app.command("steer")(steer_command)
app.command("serve")(serve_command)
app.command("export")(export_command)
app.command("models")(models_command)
app.command("doctor")(doctor_command)


def _version(show: bool) -> None:
    if show:
        from demur import __version__

        typer.echo(f"demur {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """When should a language model say no, and how do we make it say no exactly then?"""


def main() -> None:
    """Run the command line.

    Exit codes: 0 done; 1 our bug (traceback); 2 wrong usage; 3 the user can fix it (one line);
    4 a gate was not met; 130 interrupted.
    """
    try:
        app()
    except (UserError, BackendError) as error:
        _stop(str(error), 3)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _stop("the disk is full; what was done is kept, free space and run the same command to resume", 3)


def _stop(message: str, code: int) -> None:
    one_line = " ".join(message.split())
    typer.echo(f"demur: {one_line}", err=True)
    sys.exit(code)
